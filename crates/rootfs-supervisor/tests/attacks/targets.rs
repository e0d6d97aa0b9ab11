//! The same attacks on the runtimes that this machine has, where they accept the configuration. Their results are printed and
//! judged by nobody: they show that the attacks work.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use rootfs::spec::{BindSource, Content, MountKind, UserNamespace};

use super::ground::{Before, Ground, SECRET, leads_outside};
use super::list::{Attack, Stage, Staged};
use super::support::{Cell, shell};
use super::{BEGIN, END, Racer, count, naive, or_true, parts};

const TARGETS: [(&str, &str); 3] =
    [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun"), ("bwrap", "/usr/bin/bwrap")];

/// Those that are there.
pub fn names() -> Vec<&'static str> {
    TARGETS.into_iter().filter(|(_, program)| Path::new(program).exists()).map(|(name, _)| name).collect()
}

pub fn run(attack: &Attack, results: &mut BTreeMap<&'static str, BTreeMap<String, usize>>) {
    for (name, program) in TARGETS.into_iter().filter(|(_, program)| Path::new(program).exists()) {
        let table = results.entry(name).or_default();
        for variant in attack.variants {
            let racing =
                attack.variants.len() > 1 && variant.contains("swapped") || attack.name == "volume-swap";
            // A racer may lose; a few tries each.
            for _ in 0..if racing { 5 } else { 1 } {
                let ground = Ground::new(Cell::Root, None);
                let what = naive::in_private_mounts(false, || match (attack.stage)(&ground, variant) {
                    Stage::Container(staged) => attack_one(&ground, &staged, name, program),
                    Stage::Direct(..) => "not run".into(),
                });
                count(table, what);
            }
        }
    }
}

fn attack_one(ground: &Ground, staged: &Staged, name: &str, program: &str) -> String {
    let none: Option<&str> = None;
    if let Some(host) = &staged.host {
        host(ground).unwrap();
    }
    // Only version 2: in one directory, which is taken away again.
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none).unwrap();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap();
    let racer = staged.racer.as_ref().map(Racer::start);
    let before = Before::of(ground);
    let script = format!(
        "echo {BEGIN}; cat /proc/self/mountinfo; echo {END}; exec 2>&1; {}; :",
        or_true(&staged.script)
    );
    let command = if name == "bwrap" {
        bubblewrap(staged, program, &script)
    } else {
        oci(ground, staged, program, &script)
    };
    let Some(mut command) = command else { return "no such configuration".into() };
    let output = command.output().unwrap();
    drop(racer);
    let after = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap();
    for controller in after.split_whitespace().filter(|controller| !controllers.contains(controller)) {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("-{controller}"));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mounts, said) = parts(&text);
    let mut found: Vec<&str> = before
        .violations(ground)
        .iter()
        .map(|what| if what.starts_with("O1") { "O1" } else { "O2" })
        .collect();
    found.dedup();
    if mounts.lines().any(|line| leads_outside(ground, line)) {
        found.push("O3");
    }
    if said.contains(SECRET) {
        found.push("read");
    }
    let ran = output.status.success() && !mounts.is_empty();
    if ran
        && let Some(check) = &staged.check
        && check(ground, said).is_err()
    {
        found.push("fell");
    }
    // timeout(1) ends as what it ends with this signal does.
    let hung = output.status.signal() == Some(9) || output.status.code() == Some(137);
    match (found.is_empty(), ran) {
        (true, false) if hung => "hangs".into(),
        (false, _) => found.join(" "),
        (true, true) => "ran".into(),
        (true, false) => "error".into(),
    }
}

/// A named pipe makes some of them wait for ever.
fn with_limit(program: &str) -> Command {
    let mut command = Command::new("/usr/bin/timeout");
    command.args(["--signal=KILL", "3", program]);
    command
}

fn oci(ground: &Ground, staged: &Staged, program: &str, script: &str) -> Option<Command> {
    let mut spec = staged.spec.clone();
    spec.namespaces.user = UserNamespace::None;
    let mut process = shell(script);
    // An OCI config has no other name for it than the first argument.
    process.args[0] = process.command.as_bytes().to_vec();
    process.capabilities = Some(rootfs::process::Capabilities::default_for(0));
    process.oom_score_adj = staged.oom_score;
    process.cwd = Some(staged.cwd.as_deref().unwrap_or("/").into());
    let mut config = rootfs::oci::write(&spec, Some(&process)).ok()?;
    // crun 1.8.1 refuses what is newer.
    config["ociVersion"] = "1.0.2".into();
    let bundle = ground.scratch.0.join("bundle");
    let _ = fs::create_dir(&bundle);
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let mut command = with_limit(program);
    let id = ground.scratch.0.file_name().unwrap();
    command.arg("--root").arg(ground.scratch.0.join("state")).arg("run").arg("--bundle").arg(bundle).arg(id);
    Some(command)
}

fn bubblewrap(staged: &Staged, program: &str, script: &str) -> Option<Command> {
    let spec = &staged.spec;
    let rootfs::spec::Root::Directory(root) = &spec.root else { return None };
    if !spec.sysctl.is_empty() {
        return None;
    }
    let mut command = with_limit(program);
    command.args(["--unshare-pid", "--bind"]).arg(root.as_path()).arg("/");
    for content in &spec.content {
        let at = content.destination().as_path();
        match content {
            Content::Directory(_) => command.arg("--dir"),
            Content::Symlink(link) => command.arg("--symlink").arg(link.target.as_path()),
            Content::Mount(what) => match &what.kind {
                MountKind::Bind { source: BindSource::Host(source), .. } => {
                    command.arg("--bind").arg(source.as_path())
                }
                MountKind::Filesystem { fstype, .. } => match fstype.as_str() {
                    "proc" => command.arg("--proc"),
                    "tmpfs" if at == Path::new("/dev") => command.arg("--dev"),
                    "tmpfs" => command.arg("--tmpfs"),
                    "mqueue" => command.arg("--mqueue"),
                    // It has none of these.
                    _ => continue,
                },
                MountKind::Cgroup { .. } => continue,
                _ => return None,
            },
        };
        command.arg(at);
    }
    if let Some(cwd) = &staged.cwd {
        command.arg("--chdir").arg(cwd);
    }
    command.args(["/bin/sh", "-c", script]).env("PATH", "/bin");
    Some(command)
}
