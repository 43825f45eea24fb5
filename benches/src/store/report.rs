//! The figures of a run, as `--json` writes them, and in print.

use lapidary_benches::machine::Machine;
use lapidary_benches::numbers::p50;
use serde::{Deserialize, Serialize};

use crate::arguments::PartName;
use crate::{cleaning, forks, million, recovery};
use lapidary_benches::sheet::Target;

/// A whole run. A part that was not asked for, or failed, is `null`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) seed: u64,
    pub(crate) forks: Option<forks::Figures>,
    pub(crate) cleaning: Option<cleaning::Figures>,
    pub(crate) recovery: Option<recovery::Figures>,
    pub(crate) million: Option<million::Figures>,
    pub(crate) targets: Vec<Target>,
    pub(crate) failed: Vec<FailedPart>,
}

/// A part that could not be measured, or found other content than was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedPart {
    pub(crate) part: PartName,
    pub(crate) reason: String,
}

impl Report {
    pub(crate) fn new(machine: Machine, seed: u64) -> Self {
        Self {
            machine,
            seed,
            forks: None,
            cleaning: None,
            recovery: None,
            million: None,
            targets: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub(crate) fn render(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} cores, {} MiB; {}; {}; fdatasync of 4 KiB: {} us rewritten, {} us appended \
             (p50); seed {}",
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.filesystem,
            p50(machine.sync_rewritten_us),
            p50(machine.sync_appended_us),
            self.seed,
        );
        let sheets = [
            self.forks.as_ref().map(|figures| figures.sheet().render(&figures.targets())),
            self.cleaning.as_ref().map(|figures| figures.sheet().render(&figures.targets())),
            self.recovery.as_ref().map(|figures| figures.sheet().render(&figures.targets())),
            self.million.as_ref().map(|figures| figures.sheet().render(&figures.targets())),
        ];
        for sheet in sheets.into_iter().flatten() {
            text.push('\n');
            text.push_str(&sheet);
        }
        for FailedPart { part, reason } in &self.failed {
            text.push_str(&format!("\n\n{part:?} FAILED: {reason}"));
        }
        text
    }
}
