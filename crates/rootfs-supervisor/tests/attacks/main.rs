//! Attacks on the building of a container, by its image, its volumes and its neighbours: docs/security.md has the table.
//!
//! Each variant of each attack is staged on a ground of its own and must hold three things, whatever else comes of it: nothing
//! outside of the root has changed (O1), no mount table of the host has (O2), and nothing of the attacker's target is mounted
//! in the container (O3). The same attack on a naive program ([`naive`]) must get through: the positive control.
//!
//! Each caller meets each level, in turn, with `/` private and shared. `--all` runs every variant in every cell; `--targets`
//! attacks the runtimes that this machine has, too; `--races=200` repeats each variant with a neighbour who exchanges names so
//! often, and nothing else. Names of attacks may be given.
//!
//! Needs root, and the Debian packages busybox-static and util-linux.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unreachable_pub)]

mod ground;
mod list;
mod naive;
mod processes;
#[path = "../support/mod.rs"]
mod support;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use ground::{Before, Ground, SECRET, leads_outside};
use list::{ATTACKS, Attack, Control, Expect, Stage, Staged};
use rootfs::execute::Level;
use rootfs::protocol::Exit;
use support::{Cell, Ended, Supervisor, shell};

/// Every level with every caller who can have it, and both kinds of `/` with each of these.
static CELLS: LazyLock<Vec<(Cell, Level, bool)>> = LazyLock::new(|| {
    ALL_CELLS.into_iter().filter(|(cell, level, _)| cell.levels().contains(level)).collect()
});

const ALL_CELLS: [(Cell, Level, bool); 8] = [
    (Cell::Root, Level::Detached, false),
    (Cell::Ordinary, Level::Attached, true),
    (Cell::RootRange, Level::Classic, false),
    (Cell::Root, Level::Attached, true),
    (Cell::Ordinary, Level::Classic, true),
    (Cell::RootRange, Level::Attached, false),
    (Cell::Ordinary, Level::Detached, false),
    (Cell::Root, Level::Classic, true),
];

/// How often a naive program may win a race by chance.
const CONTROL_TRIES: usize = 5000;

const BEGIN: &str = "==mounts==";
const END: &str = "==end==";

/// Exchanges two names until it is killed.
struct Racer(Child);

impl Racer {
    fn start((one, other): &(std::path::PathBuf, std::path::PathBuf)) -> Self {
        let program = std::env::current_exe().unwrap();
        Self(
            Command::new(program).arg("--exchange").args([one, other]).stdout(Stdio::null()).spawn().unwrap(),
        )
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exchange(one: &str, other: &str) -> ExitCode {
    loop {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        // Gone with the ground.
        if rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).is_err()
            && !Path::new(one).exists()
            && !Path::new(other).exists()
        {
            return ExitCode::SUCCESS;
        }
    }
}

/// What came of the runs of an attack.
#[derive(Default)]
struct Results {
    runs: usize,
    ours: BTreeMap<String, usize>,
    failures: Vec<String>,
    control: BTreeMap<String, usize>,
    fell: usize,
    controls: usize,
    targets: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

fn count(table: &mut BTreeMap<String, usize>, what: impl Into<String>) {
    *table.entry(what.into()).or_default() += 1;
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, one, other] = &args[..]
        && flag == "--exchange"
    {
        return exchange(one, other);
    }
    match args.first().map(String::as_str) {
        Some("--snoop") => return processes::snoop(&args[1], &args[2..]),
        Some("--naive-first-process") => return processes::naive_first_process(),
        Some("--type-into-terminal") => return processes::type_into_terminal(),
        _ => {}
    }
    if args.iter().any(|arg| arg == "--list") {
        for attack in ATTACKS {
            println!("{}: test", attack.name);
        }
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("attacks: skipped, they need root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    let (all, with_targets) = (flag("--all"), flag("--targets"));
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |attack: &&Attack| names.is_empty() || names.iter().any(|name| attack.name.contains(*name));

    ground::watch();
    let machine = ground::sentinel_mounts();
    let begin = Instant::now();
    let mut failures = Vec::new();
    let (mut attacks, mut runs) = (0, 0);
    if let Some(builds) = args.iter().find_map(|arg| arg.strip_prefix("--races=")) {
        let builds = builds.parse().unwrap();
        println!("| variant | builds | rootfs | naive program |\n| --- | --- | --- | --- |");
        for attack in ATTACKS.iter().filter(chosen) {
            for variant in attack.variants.iter().copied().filter(|variant| races(attack, variant)) {
                let mut results = Results::default();
                race(attack, variant, 0..builds, &mut results);
                failures.extend(results.failures.iter().map(|failure| format!("{}: {failure}", attack.name)));
                println!(
                    "| {}, {variant} | {builds} | {} | fell {}/{} |",
                    attack.name,
                    list_of(&results.ours),
                    results.fell,
                    results.controls
                );
                runs += builds;
            }
            attacks += 1;
        }
        return end(&machine, failures, attacks, runs, begin);
    }
    let others = if with_targets { targets::names() } else { Vec::new() };
    print_header(&others);
    for attack in ATTACKS.iter().filter(chosen) {
        let mut results = Results::default();
        run_attack(attack, all, &mut results);
        if with_targets {
            targets::run(attack, &mut results.targets);
        }
        failures.extend(results.failures.iter().map(|failure| format!("{}: {failure}", attack.name)));
        print_row(attack, &results, &others);
        attacks += 1;
        runs += results.runs;
    }
    end(&machine, failures, attacks, runs, begin)
}

fn end(
    machine: &[String],
    mut failures: Vec<String>,
    attacks: usize,
    runs: usize,
    begin: Instant,
) -> ExitCode {
    if !ground::end_watch(machine) {
        failures.push("the machine's mount table has changed".into());
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!(
        "{attacks} attacks, {runs} runs, {} failed, {:.1} s",
        failures.len(),
        begin.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds in CI, all variants of an attack together.
const RACES: usize = 30;

/// Whether somebody exchanges names meanwhile.
fn races(attack: &Attack, variant: &str) -> bool {
    let ground = Ground::new(Cell::Root, None);
    matches!((attack.stage)(&ground, variant), Stage::Container(staged) if staged.racer.is_some())
}

/// Many builds, in each cell in turn, and as many by the naive program.
fn race(attack: &Attack, variant: &'static str, turns: std::ops::Range<usize>, results: &mut Results) {
    for turn in turns {
        let (cell, level, shared) = CELLS[turn % CELLS.len()];
        one_run(attack, variant, (cell, level, shared), results);
        let ground = Ground::new(Cell::Root, None);
        let fell = naive::in_private_mounts(false, || match (attack.stage)(&ground, variant) {
            Stage::Container(staged) => match &staged.control {
                Control::Naive(check) => fall(&ground, &staged, check.as_ref()).is_some(),
                Control::None(_) => false,
            },
            Stage::Direct(..) => false,
        });
        results.controls += 1;
        results.fell += usize::from(fell);
    }
}

fn one_run(
    attack: &Attack,
    variant: &str,
    (cell, level, shared): (Cell, Level, bool),
    results: &mut Results,
) {
    let title = format!(
        "{variant}, {}, {level:?}, / {}",
        list::cell_name(cell),
        if shared { "shared" } else { "private" }
    );
    let run = AssertUnwindSafe(|| run_ours(attack, variant, cell, level, shared));
    results.runs += 1;
    match std::panic::catch_unwind(run).unwrap_or_else(|_| Err("the test itself failed".into())) {
        Ok(what) => count(&mut results.ours, what),
        Err(what) => {
            count(&mut results.ours, "FAILED");
            results.failures.push(format!("{title}: {what}"));
        }
    }
}

/// Every variant at least once and every cell at least once; or all of both.
fn run_attack(attack: &Attack, all: bool, results: &mut Results) {
    let variants = attack.variants.len();
    let schedule: Vec<(usize, usize)> = if all {
        (0..variants).flat_map(|variant| (0..CELLS.len()).map(move |cell| (variant, cell))).collect()
    } else {
        (0..variants.max(CELLS.len()))
            .map(|turn| (turn % variants, (turn + turn / CELLS.len()) % CELLS.len()))
            .collect()
    };
    let mut controlled = BTreeSet::new();
    for (variant, cell) in schedule {
        let variant = attack.variants[variant];
        let (cell, level, shared) = CELLS[cell];
        for shared in if all { vec![false, true] } else { vec![shared] } {
            one_run(attack, variant, (cell, level, shared), results);
        }
        if controlled.insert(variant) {
            run_control(attack, variant, results);
        }
    }
    let racing: Vec<&&str> = attack.variants.iter().filter(|variant| races(attack, variant)).collect();
    for turn in 0..if racing.is_empty() { 0 } else { RACES } {
        let (cell, level, shared) = CELLS[turn % CELLS.len()];
        one_run(attack, racing[turn % racing.len()], (cell, level, shared), results);
    }
}

fn run_ours(
    attack: &Attack,
    variant: &str,
    cell: Cell,
    level: Level,
    shared: bool,
) -> Result<String, String> {
    let ground = Ground::new(cell, Some(level));
    naive::in_private_mounts(shared, || match (attack.stage)(&ground, variant) {
        Stage::Direct(ours, _) => ours(&ground).map(|()| "refused".into()),
        Stage::Container(staged) => run_container(&ground, &staged, cell, level),
    })
}

fn run_container(ground: &Ground, staged: &Staged, cell: Cell, level: Level) -> Result<String, String> {
    if let Some(host) = &staged.host {
        host(ground)?;
    }
    let racer = staged.racer.as_ref().map(Racer::start);
    let before = Before::of(ground);
    let mut supervisor = Supervisor::start_by(&format!("exec {} /usr/bin/env", staged.starter), cell);
    supervisor.stdin = staged.stdin.as_ref().map(|stdin| stdin.try_clone().unwrap());
    let mut process = shell(&format!(
        "echo {BEGIN}; cat /proc/self/mountinfo; echo {END}; exec 2>&1; {}; :",
        or_true(&staged.script)
    ));
    process.cwd = staged.cwd.as_deref().map(Into::into);
    process.oom_score_adj = staged.oom_score;
    // The attacker is root of the container, and the files there are his.
    let mut capabilities = rootfs::process::Capabilities::default_for(0);
    for name in ["CHOWN", "DAC_OVERRIDE", "FOWNER"] {
        let bit = 1 << rootfs::process::capability_number(name).unwrap();
        capabilities.bounding |= bit;
        capabilities.permitted |= bit;
        capabilities.effective |= bit;
    }
    process.capabilities = Some(capabilities);
    let ended = match supervisor.begin(cell, &staged.spec, Some(process), Some(level)) {
        Ok(running) => supervisor.finish(&running),
        Err(error) => Ended {
            exit: Exit::Code(127),
            output: String::new(),
            report: None,
            failure: Some(*error),
            left: Vec::new(),
        },
    };
    drop(supervisor);
    drop(racer);
    let mut found = before.violations(ground);
    let (mounts, said) = parts(&ended.output);
    found.extend(mounts.lines().filter(|line| leads_outside(ground, line)).map(|line| format!("O3: {line}")));
    if said.contains(SECRET) {
        found.push("what is outside was read".into());
    }
    match (&ended.failure, &staged.expect) {
        (None, Expect::Runs | Expect::Either) => {
            if ended.exit != Exit::Code(0) {
                found.push(format!("{:?}: {}", ended.exit, ended.output));
            }
            if let Some(check) = &staged.check {
                found.extend(check(ground, said).err());
            }
        }
        (Some(_), Expect::Either | Expect::Fails) => {}
        (Some(error), Expect::Code(code)) if error.code == *code => {}
        // A neighbour who changes things all the time may stop it, but not get through.
        (Some(_), Expect::Runs) if staged.racer.is_some() => {}
        (Some(error), _) => found.push(format!("another error: {} {error}", error.code.name())),
        (None, _) => found.push("it ran".into()),
    }
    if found.is_empty() { Ok(list::result_text(&ended)) } else { Err(found.join("; ")) }
}

fn or_true(script: &str) -> &str {
    if script.is_empty() { "true" } else { script }
}

/// The mount table, and what the attack's own script said.
fn parts(output: &str) -> (&str, &str) {
    let rest = output.split_once(&format!("{BEGIN}\n")).map_or("", |(_, rest)| rest);
    rest.split_once(&format!("{END}\n")).unwrap_or((rest, ""))
}

fn run_control(attack: &Attack, variant: &str, results: &mut Results) {
    let mut tries = 0;
    loop {
        tries += 1;
        let ground = Ground::new(Cell::Root, None);
        let (fell, again) = naive::in_private_mounts(false, || match (attack.stage)(&ground, variant) {
            Stage::Direct(_, control) => (Ok(control(&ground).is_err().then(|| "fell".to_owned())), false),
            Stage::Container(staged) => match &staged.control {
                Control::None(why) => (Err(*why), false),
                Control::Naive(check) => (Ok(fall(&ground, &staged, check.as_ref())), staged.racer.is_some()),
            },
        });
        match fell {
            Ok(None) if again && tries < CONTROL_TRIES => continue,
            Ok(Some(what)) => {
                results.controls += 1;
                results.fell += 1;
                count(&mut results.control, what);
            }
            Ok(None) => {
                results.controls += 1;
                let what = format!("{variant}: the naive program did not fall to it in {tries} tries");
                results.failures.push(what);
            }
            Err(why) => count(&mut results.control, format!("none: {why}")),
        }
        return;
    }
}

/// What a naive program lets happen.
fn fall(ground: &Ground, staged: &Staged, check: Option<&list::Check>) -> Option<String> {
    if let Some(host) = &staged.host {
        host(ground).unwrap();
    }
    let racer = staged.racer.as_ref().map(Racer::start);
    let before = Before::of(ground);
    let root = match &staged.spec.root {
        rootfs::spec::Root::Directory(path) => path.as_path(),
        _ => &ground.root,
    };
    naive::build(root, &staged.spec);
    drop(racer);
    let checked = check.is_some_and(|check| check(ground).is_err());
    let mut found = before.naive_violations(ground);
    if checked {
        found.push("fell".into());
    }
    (!found.is_empty()).then(|| found.join(" "))
}

/// The columns of the runtimes that are attacked too.
fn print_header(targets: &[&str]) {
    let others: Vec<String> = targets.iter().map(|name| format!(" {name} |")).collect();
    println!("| attack | variants | runs | rootfs | naive program |{}", others.concat());
    println!("| --- | --- | --- | --- | --- |{}", " --- |".repeat(targets.len()));
}

fn list_of(table: &BTreeMap<String, usize>) -> String {
    table.iter().map(|(what, times)| format!("{what} {times}")).collect::<Vec<_>>().join(", ")
}

fn print_row(attack: &Attack, results: &Results, targets: &[&str]) {
    let others: Vec<String> = targets
        .iter()
        .map(|name| format!(" {} |", results.targets.get(name).map(list_of).unwrap_or_default()))
        .collect();
    println!(
        "| {} ({}) | {} | {} | {} | fell {}/{}: {} |{}",
        attack.name,
        attack.what,
        attack.variants.len(),
        results.runs,
        list_of(&results.ours),
        results.fell,
        results.controls,
        list_of(&results.control),
        others.concat(),
    );
}
