//! What this host allows. A supervisor of its own, in a process that only probes, tries it; a thread of Node's pool waits.

use napi::bindgen_prelude::AsyncTask;
use napi::{Env, Result, Task};
use napi_derive::napi;
use rootfs::error::Error;
use rootfs::protocol::{FrameError, Kind};
use rootfs::support::{Feature, Finding, Refusal};

use crate::client::Client;
use crate::js::internal_object;
use crate::supervisor::{self, SupervisorFile};

internal_object! {
    /// A feature and what was found out about it.
    Found {
        /// Its key.
        name as "name": String,
        ..
        /// Why it isn't there.
        reason as "reason": String,
        /// What to do about it.
        hint as "hint": String,
    }
}

impl From<Finding> for Found {
    fn from(Finding { feature, refusal }: Finding) -> Self {
        let (reason, hint) = refusal.map_or((None, None), |refusal| (Some(refusal.reason), refusal.hint));
        Self { name: feature.name().to_owned(), reason, hint }
    }
}

/// The work, on a thread of the pool.
pub(crate) struct Probing;

impl Task for Probing {
    type Output = Vec<Finding>;
    type JsValue = Vec<Found>;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(find())
    }

    fn resolve(&mut self, _: Env, findings: Self::Output) -> Result<Self::JsValue> {
        Ok(findings.into_iter().map(Found::from).collect())
    }
}

fn refusal(error: &Error) -> Refusal {
    Refusal { reason: error.to_string(), hint: error.hint.clone() }
}

fn finding(feature: Feature, outcome: std::result::Result<(), Refusal>) -> Finding {
    Finding { feature, refusal: outcome.err() }
}

/// What is found by a supervisor that only probes.
fn ask(file: &SupervisorFile) -> rootfs::Result<Vec<Finding>> {
    let (process, socket) = supervisor::execute(file, Some(c"probe"))?;
    let answer = supervisor::receive(&socket).and_then(|frame| match frame.kind {
        Kind::Probed => frame.decode::<Vec<Finding>>(),
        _ => Err(FrameError::Magic),
    });
    // It has nothing more to do.
    supervisor::end(process, socket);
    answer.map_err(|error| supervisor::not_understood(&error))
}

/// Everything, in the order of the table. Where the supervisor can't be started, the rest is not known.
fn find() -> Vec<Finding> {
    let in_memory = supervisor_path().and_then(|path| {
        let copy = SupervisorFile::copy(&path)?;
        // Only executing it shows whether it can be.
        ask(&SupervisorFile::Memory(copy))
    });
    // What containers use is what counts: a path in the environment, or memory.
    let used = match SupervisorFile::of_environment() {
        Ok(None) => None,
        Ok(Some(file)) => Some(ask(&file)),
        Err(error) => Some(Err(error)),
    };
    let memory = finding(Feature::MemfdExec, in_memory.as_ref().map(drop).map_err(|error| refusal(error)));
    let supervisor = used.as_ref().unwrap_or(&in_memory);
    let supervisor =
        finding(Feature::Supervisor, supervisor.as_ref().map(drop).map_err(|error| refusal(error)));
    // Where neither works, the file itself still shows what the rest would be.
    let found = used
        .and_then(rootfs::Result::ok)
        .or(in_memory.ok())
        .or_else(|| ask(&SupervisorFile::Path(supervisor_path().ok()?)).ok());
    Feature::ALL
        .iter()
        .map(|feature| match feature {
            Feature::Supervisor => supervisor.clone(),
            Feature::MemfdExec => memory.clone(),
            feature => match found.iter().flatten().find(|finding| finding.feature == *feature) {
                Some(finding) => finding.clone(),
                None => {
                    finding(*feature, Err(Refusal::new("it can't be tried: the supervisor can't be started")))
                }
            },
        })
        .collect()
}

fn supervisor_path() -> rootfs::Result<std::ffi::CString> {
    Client::get().map(|client| client.path())
}

/// Finds out what this host allows.
#[napi(skip_typescript)]
pub(crate) fn probe() -> AsyncTask<Probing> {
    AsyncTask::new(Probing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one table of features is in Rust; the union that users see must have the same members.
    #[test]
    fn the_union_of_features_is_the_table() {
        let header = include_str!("../../../src/api-header.d.ts");
        let union = header.split("export type HostFeature =").nth(1).unwrap().split("\n\n").next().unwrap();
        let listed: Vec<&str> =
            union.lines().filter_map(|line| line.trim().strip_prefix("| '")?.strip_suffix('\'')).collect();
        let table: Vec<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(listed, table);
    }
}
