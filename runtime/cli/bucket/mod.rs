//! `bucket`: stores in a bucket, without holding them; and how other commands get hold of one.
//!
//! | module | is |
//! |---|---|
//! | `whole` | `status`, `verify`, `pull`, `history`: the store as a whole |
//! | `follow` | `ls`, `sql`, `export`: facets, as a follower reads them |
//! | `hold` | `--bucket` of the commands that open a store |

mod follow;
mod hold;
mod whole;

use std::sync::Arc;

use clap::{Args, Subcommand};
use lapidary::bucket::{self, BucketError, HistoryPoint, Objects, RemoteObjects};

use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::units::moment;

pub(crate) use hold::{has_store, hold};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lapidary bucket status s3://stores/agents
  lapidary bucket verify s3://stores/agents --json | jq '.findings[].object'
  lapidary bucket pull s3://stores/agents copy.store
  lapidary bucket history s3://stores/agents
  lapidary bucket pull s3://stores/agents may.store --as-of '2026-05-01 12:30'
  lapidary bucket sql s3://stores/agents agents/42 'SELECT count(*) FROM note'
  lapidary bucket export s3://stores/agents agents/42 then.sqlite --as-of '2026-05-01 12:30'

None of them takes the store from the host that serves it, or changes the bucket. Credentials, region
and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT. To
change a store in a bucket, give --bucket to the command that does: `lapidary sql --help`.")]
pub(crate) struct Bucket {
    #[command(subcommand)]
    command: BucketCommand,
}

#[derive(Subcommand, Debug)]
enum BucketCommand {
    /// Who holds the store, and what is in the bucket
    Status(Address),
    /// Make a whole local copy, an ordinary store
    Pull(whole::Pull),
    /// Fetch everything and compare it with its checksums; the exit code is 6 if something is damaged
    Verify(whole::Verify),
    /// List the moments to which one can go back
    History(Address),
    /// List facets
    Ls(follow::List),
    /// Run statements that read
    Sql(follow::Sql),
    /// Write a facet to a SQLite file
    Export(follow::Export),
}

#[derive(Args, Debug)]
struct Address {
    /// `s3://BUCKET/PREFIX` or `file:///DIRECTORY`
    url: String,
}

impl Address {
    fn open(&self) -> Outcome<Arc<dyn Objects>> {
        Ok(Arc::new(RemoteObjects::open_to_read(&self.url)?))
    }

    /// The newest point of history that is not later than a moment.
    fn point_before(&self, objects: &dyn Objects, wall_ms: u64) -> Outcome<HistoryPoint> {
        let points = bucket::history(objects)?;
        let found = points.iter().rev().find(|point| point.wall_ms <= wall_ms).copied();
        let words = match (found, points.first()) {
            (Some(point), _) => return Ok(point),
            (None, Some(oldest)) => {
                let (oldest, asked) = (moment(oldest.wall_ms)?, moment(wall_ms)?);
                format!("its history begins at {oldest}, and that is after {asked}")
            }
            (None, None) => "no history is kept here; a host keeps it if \
                             `BucketSettings::history_for` says so"
                .to_owned(),
        };
        Err(Failure::new(Exit::NotFound, format!("{}: {words}", self.url)))
    }
}

impl From<BucketError> for Failure {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::InvalidInput(words) => Self::new(Exit::Usage, words),
            error => lapidary::HostError::from(error).into(),
        }
    }
}

pub(crate) fn run(arguments: &Bucket, output: &mut Output) -> Outcome {
    match &arguments.command {
        BucketCommand::Status(address) => whole::status(address, output),
        BucketCommand::Pull(arguments) => whole::pull(arguments, output),
        BucketCommand::Verify(arguments) => whole::verify(arguments, output),
        BucketCommand::History(address) => whole::history(address, output),
        BucketCommand::Ls(arguments) => follow::list(arguments, output),
        BucketCommand::Sql(arguments) => follow::sql(arguments, output),
        BucketCommand::Export(arguments) => follow::export(arguments, output),
    }
}
