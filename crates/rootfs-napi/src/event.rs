//! News of containers and commands, on their way to JavaScript.

use napi::bindgen_prelude::Buffer;
use rootfs::mountinfo::Entry;
use rootfs::protocol::{Exit, Leftover, Report, TakenDown};

use crate::api::{ExecutedStep, MountInfo, Step, Warning, executed_step, lossy, step, warning};
use crate::client::{Event, Finished, News};
use crate::failure::ErrorData;
use crate::js::internal_object;

internal_object! {
    /// What the function `tell` of news.ts gets.
    JsEvent {
        /// The container.
        container as "container": f64,
        /// The command; 0 for the container itself.
        child as "child": f64,
        /// `step`, `ready`, `spawn`, `error`, `exit`, `closed`, `mounts`, `function`, `finished`.
        kind as "kind": &'static str,
        ..
        /// Of `ready` and `spawn`.
        pid as "pid": i32,
        /// Of `exit`: its status.
        exit_code as "exitCode": i32,
        /// Of `exit`: the number of the signal that ended it.
        signal as "signal": i32,
        /// Of `error`.
        error as "error": ErrorData,
        /// Of `step`: one; of `ready`: all.
        steps as "steps": Vec<ExecutedStep>,
        /// Of `ready` and `spawn`.
        skipped as "skipped": Vec<Step>,
        /// Of `ready`, `spawn` and `closed`.
        warnings as "warnings": Vec<Warning>,
        /// Of `mounts`.
        mounts as "mounts": Vec<MountInfo>,
        /// Of `function`: its number, and where the root is.
        function as "function": u32,
        root as "root": String,
        /// Of `closed` and `finished`: hooks that failed after the end.
        failures as "failures": Vec<ErrorData>,
        /// Of `finished`: standard output and error.
        stdout as "stdout": Buffer,
        stderr as "stderr": Buffer,
        /// Of `finished`: the stream that had too much, `stdout` or `stderr`.
        overflow as "overflow": String,
    }
}

impl JsEvent {
    pub(crate) fn new(event: Event) -> Self {
        let Event { container, child, plan, news } = event;
        let mut told = Self { container: number(container), child: number(child), ..Self::default() };
        let report = |told: &mut Self, report: &Report| {
            let skipped = report.skipped.iter().filter_map(|index| plan.steps.get(*index as usize));
            told.skipped = filled(skipped.map(step).collect());
            told.warnings = filled(
                plan.warnings
                    .iter()
                    .map(warning)
                    .chain(report.warnings.iter().map(|found| warning(&plan.located(found))))
                    .collect(),
            );
        };
        let failed = |error| ErrorData::new(error, Some(&plan));
        told.kind = match news {
            News::Step(done) => {
                told.steps = Some(executed_step(&plan, &done).into_iter().collect());
                "step"
            }
            News::Ready { pid, report: done } => {
                told.pid = Some(pid);
                told.steps = Some(done.steps.iter().filter_map(|done| executed_step(&plan, done)).collect());
                report(&mut told, &done);
                "ready"
            }
            News::Spawned { pid, report: done } => {
                told.pid = Some(pid);
                if let Some(done) = done {
                    report(&mut told, &done);
                }
                "spawn"
            }
            News::Failed(error) => {
                told.error = Some(ErrorData::new(*error, Some(&plan)));
                "error"
            }
            News::Exited(Exit::Code(code)) => {
                told.exit_code = Some(code);
                "exit"
            }
            News::Exited(Exit::Signal(signal)) => {
                told.signal = Some(signal);
                "exit"
            }
            News::Function { pid, call } => {
                told.pid = Some(pid);
                told.function = Some(call.function);
                told.root = Some(lossy(&call.root));
                "function"
            }
            News::Closed(TakenDown { left, failures }) => {
                told.failures = filled(failures.into_iter().map(failed).collect());
                told.warnings = filled(left.into_iter().map(left_warning).collect());
                "closed"
            }
            News::Finished(finished) => {
                let Finished {
                    exit,
                    failure,
                    report: done,
                    left,
                    failures,
                    output: [stdout, stderr],
                    overflow,
                } = *finished;
                told.failures = filled(failures.into_iter().map(failed).collect());
                match exit {
                    Some(Exit::Code(code)) => told.exit_code = Some(code),
                    Some(Exit::Signal(signal)) => told.signal = Some(signal),
                    None => {}
                }
                told.error = failure.map(|error| ErrorData::new(*error, Some(&plan)));
                if let Some(done) = done {
                    report(&mut told, &done);
                }
                if !left.is_empty() {
                    told.warnings.get_or_insert_default().extend(left.into_iter().map(left_warning));
                }
                told.stdout = filled(stdout).map(Buffer::from);
                told.stderr = filled(stderr).map(Buffer::from);
                told.overflow = overflow.map(|index| if index == 1 { "stdout" } else { "stderr" }.to_owned());
                "finished"
            }
            News::Mounts(entries) => {
                told.mounts = Some(entries.into_iter().map(mount_info).collect());
                "mounts"
            }
        };
        told
    }
}

/// What is empty isn't told: each property, and each buffer more so, costs time.
fn filled<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Ids are counted from one, so doubles hold them.
#[expect(clippy::cast_precision_loss, reason = "nobody starts 2^53 containers")]
fn number(id: u64) -> f64 {
    id as f64
}

fn left_warning(left: Leftover) -> Warning {
    Warning {
        code: "mountpoint-left".to_owned(),
        message: format!("the mountpoint {} was made and is left: {}", lossy(&left.path), left.reason),
        step: None,
        pointer: None,
        argument: None,
    }
}

fn mount_info(entry: Entry) -> MountInfo {
    MountInfo {
        id: number(entry.id),
        parent_id: number(entry.parent_id),
        root: lossy(&entry.root),
        destination: lossy(&entry.destination),
        r#type: entry.fstype,
        source: lossy(&entry.source),
        options: entry.options,
        super_options: entry.super_options,
        propagation: entry.propagation,
    }
}
