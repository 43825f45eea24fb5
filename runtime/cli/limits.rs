//! `limit`: quotas and retentions of names.

use std::time::Duration;

use clap::Args;
use lapidary::{QuotaInfo, Retention};
use serde_json::json;

use crate::failure::Outcome;
use crate::open::Place;
use crate::output::Output;
use crate::units::{parse_age, parse_size, size};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary limit agents.store tenants/acme                              what is set
  lapidary limit agents.store tenants/acme --quota 100MiB
  lapidary limit agents.store agents --history 1GiB --history-age 7d    keep a week of versions
  lapidary limit agents.store agents --history none")]
pub(crate) struct Limit {
    #[command(flatten)]
    place: Place,
    /// A name; what is set goes for all below it, and there need not be a facet
    name: String,
    /// Bytes that the facets may have together, such as 100MiB, or none
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    quota: Option<Bound>,
    /// Bytes of old pages that each facet keeps, such as 1GiB, or none
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    history: Option<Bound>,
    /// How long they are kept
    #[arg(long, value_name = "AGE", value_parser = parse_age, default_value = "7d",
          requires = "history")]
    history_age: Duration,
}

/// A number of bytes, or that there is none.
#[derive(Clone, Copy, Debug)]
struct Bound(Option<u64>);

fn size_or_none(text: &str) -> Result<Bound, String> {
    if text == "none" { Ok(Bound(None)) } else { parse_size(text).map(|bytes| Bound(Some(bytes))) }
}

pub(crate) fn run(arguments: &Limit, output: &mut Output) -> Outcome {
    let name = &arguments.name;
    arguments.place.with_host(|host| {
        if let Some(Bound(bytes)) = arguments.quota {
            host.set_quota(name, bytes).wait()?;
        }
        if let Some(Bound(bytes)) = arguments.history {
            let age = arguments.history_age;
            host.set_retention(name, bytes.map(|bytes| Retention { bytes, age })).wait()?;
        }
        let quota: Option<QuotaInfo> = host.quota(name).wait()?;
        let retention = host.retention(name).wait()?;
        output.json(&json!({
            "name": name,
            "quota_bytes": quota.map(|quota| quota.limit_bytes),
            "used_bytes": quota.map(|quota| quota.used_bytes),
            "history_bytes": retention.map(|retention| retention.bytes),
            "history_seconds": retention.map(|retention| retention.age.as_secs()),
        }))?;
        let quota = quota.map_or("none".to_owned(), |quota| {
            format!("{}, {} used", size(quota.limit_bytes), size(quota.used_bytes))
        });
        let history = retention.map_or("none of its own".to_owned(), |kept| {
            format!("{} for {}", size(kept.bytes), indicatif::HumanDuration(kept.age))
        });
        output.line(format_args!("quota    {quota}"))?;
        output.line(format_args!("history  {history}"))
    })
}
