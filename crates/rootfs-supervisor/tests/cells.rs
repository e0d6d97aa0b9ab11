//! Who does what in which namespace: the table of docs/architecture.md, cell by cell, on the real kernel.
//!
//! These tests need root, and the Debian packages busybox-static and util-linux.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::os::unix::fs::PermissionsExt;

use rootfs::execute::Level;
use rootfs::protocol::Exit;
use rootfs::spec::{Hook, HookPoint, Root};
use support::{Cell, Scratch, Supervisor, bind, busybox_root, default_spec, host_mounts, listing};

const INSPECT: &str = "cat /proc/self/mountinfo; echo ==; id -u; hostname; echo pid $$; cat /proc/self/uid_map; \
    ls /proc/self/fd | wc -l; grep -H CapEff /proc/self/status 2>/dev/null; echo x > /dev/null && echo null-works; \
    mkdir /x 2>/dev/null || echo root-is-readonly; touch /proc/sys/x 2>/dev/null || echo sys-is-readonly; \
    test -c /dev/urandom && echo device";

fn check(cell: Cell, level: Level, hooks: bool, mountpoints: bool) {
    let scratch = Scratch::new();
    let root = busybox_root(&scratch.0, cell, mountpoints);
    let before = (host_mounts(), listing(&root));
    let mut spec = default_spec(&root);
    spec.add(bind(std::path::Path::new("/usr/share"), "/usr/share"));
    let evidence = scratch.0.join("evidence");
    if hooks {
        std::fs::write(&evidence, "").unwrap();
        std::fs::set_permissions(&evidence, std::fs::Permissions::from_mode(0o666)).unwrap();
        let script = |point: &str, what: &str| {
            format!("{{ echo {point}; {what}; cat; echo; }} >> {}", evidence.display())
        };
        for (point, text) in [
            (HookPoint::Prestart, script("prestart", "pwd")),
            (HookPoint::CreateRuntime, script("createRuntime", "pwd")),
            (
                HookPoint::CreateContainer,
                script(
                    "createContainer",
                    "pwd; ls proc/self >/dev/null && echo tree-is-attached; ls usr/share | wc -l",
                ),
            ),
        ] {
            let args = ["sh", "-c", &text].map(|arg| arg.as_bytes().to_vec()).to_vec();
            spec.hooks.push(Hook {
                function: None,
                point,
                path: "/bin/sh".into(),
                args,
                env: vec![b"PATH=/usr/bin:/bin".to_vec()],
                timeout: Some(20),
            });
        }
    }
    let mut supervisor = Supervisor::start(cell);
    let ended = supervisor.run(cell, &spec, INSPECT, Some(level));
    let name = format!("{cell:?} {level:?} hooks={hooks} mountpoints={mountpoints}");
    assert_eq!(ended.failure, None, "{name}");
    assert_eq!(ended.exit, Exit::Code(0), "{name}: {}", ended.output);
    for wanted in [
        "null-works",
        "root-is-readonly",
        "sys-is-readonly",
        "device",
        "\nbox\n",
        "pid 1\n",
        " /usr/share ro",
    ] {
        assert!(ended.output.contains(wanted), "{name}: {wanted} is missing in {}", ended.output);
    }
    assert!(ended.left.is_empty(), "{name}: {:?}", ended.left);
    if hooks {
        let said = std::fs::read_to_string(&evidence).unwrap();
        for wanted in ["prestart", "createRuntime", "createContainer", "tree-is-attached", "\"pid\":"] {
            assert!(said.contains(wanted), "{name}: {wanted} is missing in {said}");
        }
        assert!(said.contains(&format!("{}\ntree-is-attached", root.display())), "{name}: {said}");
    }
    drop(supervisor);
    assert_eq!((host_mounts(), listing(&root)), before, "{name}: something is left");
}

macro_rules! cells {
    ($($test:ident: $cell:ident, $hooks:literal;)*) => { $(
        #[test]
        fn $test() {
            for level in Cell::$cell.levels() {
                for mountpoints in [true, false] {
                    check(Cell::$cell, level, $hooks, mountpoints);
                }
            }
        }
    )* };
}

cells! {
    root_without_hooks: Root, false;
    root_with_hooks: Root, true;
    root_with_a_user_namespace_without_hooks: RootUser, false;
    root_with_a_user_namespace_with_hooks: RootUser, true;
    root_with_a_mapped_range_without_hooks: RootRange, false;
    root_with_a_mapped_range_with_hooks: RootRange, true;
    ordinary_user_without_hooks: Ordinary, false;
    ordinary_user_with_hooks: Ordinary, true;
}

#[test]
fn an_empty_root_in_every_cell() {
    for cell in Cell::ALL {
        for level in cell.levels() {
            let mut spec = default_spec(std::path::Path::new("/"));
            spec.root = Root::Empty { size: None, mode: 0o755 };
            spec.content.insert(0, bind(std::path::Path::new("/bin"), "/bin").into());
            for place in ["/lib", "/lib64", "/usr"] {
                if std::path::Path::new(place).exists() {
                    spec.content.insert(0, bind(std::path::Path::new(place), place).into());
                }
            }
            let ended = Supervisor::start(cell).run(cell, &spec, "id -u; ls /", Some(level));
            assert_eq!(ended.failure, None, "{cell:?} {level:?}");
            assert_eq!(ended.exit, Exit::Code(0), "{cell:?} {level:?}: {}", ended.output);
            assert!(ended.output.starts_with("0\n"), "{}", ended.output);
        }
    }
}
