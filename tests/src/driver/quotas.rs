//! Quotas and retentions are set and lifted.

use lapidary_engine::{FacetName, Retention};

use super::{Driver, MEAGRE, NAMES, Progress, name};
use crate::content::Content;
use crate::failure::Failure;
use crate::model::{Change, GENEROUS, used_bytes};

impl Driver {
    pub(super) fn set_quota(&mut self) -> Result<Progress, Failure> {
        let name = name(self.chance.pick(&NAMES));
        let used = used_bytes(self.model.latest(), &name) as u64;
        let bytes = match self.chance.below(8) {
            0..3 => None,
            3 => Some(u64::from(self.chance.below(1000))),
            4 => Some(used / 2),
            5 => Some(used),
            6 => Some(used + u64::from(self.chance.below(40 << 10))),
            _ => Some(1 << 40),
        };
        self.note(format!("set the quota of {name} to {bytes:?}"));
        let result = self.store.set_quota(&name, bytes);
        let called = self.called(result)?;
        let progress = self.changed(&called, |_| Change::Quota(name, bytes));
        if progress == Progress::Going {
            self.model.check_settings(&self.store)?;
        }
        Ok(progress)
    }

    pub(super) fn set_retention(&mut self) -> Result<Progress, Failure> {
        let name = name(self.chance.pick(&NAMES));
        let retention = match self.chance.below(5) {
            0 => None,
            1 => Some(Retention::OFF),
            2 => Some(MEAGRE),
            _ => Some(GENEROUS),
        };
        self.note(format!("set the retention of {name} to {retention:?}"));
        let result = self.store.set_retention(&name, retention);
        let called = self.called(result)?;
        Ok(self.changed(&called, |_| Change::Retention(name, retention)))
    }

    /// A quota, if there is one, that a commit of `content` goes over.
    pub(super) fn quota_against(&self, name: &FacetName, content: &Content) -> Option<FacetName> {
        let picture = self.model.latest_picture();
        let before = picture.facets[name].content.size_bytes();
        let more = content.size_bytes().saturating_sub(before);
        picture.settings.in_the_way(&picture.facets, &[(name.clone(), more)], |_| false)
    }
}
