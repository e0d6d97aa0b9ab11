//! Comparing the kernel's mount table with the plan: a flag that didn't stick is an error and no surprise.

use super::Execution;
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::options::Attributes;

/// What a mount must look like at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    /// The step that made it.
    pub(super) step: u32,
    /// Its id.
    pub(super) mount: u64,
    /// Attributes it must have.
    pub(super) set: u64,
    /// Attributes it must not have.
    pub(super) clear: u64,
}

impl Execution<'_> {
    pub(super) fn verify(&self) -> Result<()> {
        let ids: Vec<u64> = self.expectations.iter().map(|expectation| expectation.mount).collect();
        let states =
            self.kernel.mount_states(&ids).context(ErrorCode::Verify, || "the mount table can't be read")?;
        for (expectation, state) in self.expectations.iter().zip(states) {
            let destination =
                self.plan.steps.get(expectation.step as usize).and_then(|step| step.action.destination());
            let fail = |what: String| {
                let mut error = Error::new(ErrorCode::Verify, what);
                error.destination.clone_from(&destination);
                Err(error)
            };
            let name = destination.as_ref().map(ToString::to_string).unwrap_or_default();
            let Some(state) = state else {
                return fail(format!("the mount of step {} on {name} is not there", expectation.step));
            };
            let words = |set| Attributes { set, ..Attributes::default() }.words().join(",");
            let missing = expectation.set & !state.attributes;
            if missing != 0 {
                return fail(format!(
                    "the mount of step {} on {name} lacks {}",
                    expectation.step,
                    words(missing)
                ));
            }
            let extra = expectation.clear & state.attributes;
            if extra != 0 {
                return fail(format!(
                    "the mount of step {} on {name} has {}",
                    expectation.step,
                    words(extra)
                ));
            }
        }
        Ok(())
    }
}
