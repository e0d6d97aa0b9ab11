//! Plans of what is put into the tree, of masks and of kernel parameters.

use super::tests::default_spec;
use super::*;
use crate::options::Attributes;

#[test]
fn a_device_on_a_mount_with_nodev_is_a_warning() {
    let mut spec = default_spec();
    spec.add(defaults::filesystem("/run", "tmpfs", attr::NODEV, &[]));
    for (path, expected) in [("/dev/x", false), ("/x", false), ("/run/x", true), ("/dev/shm/x", true)] {
        spec.devices = vec![Device {
            path: path.into(),
            kind: DeviceType::Character,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }];
        let warnings = Plan::new(&spec).unwrap().warnings;
        assert_eq!(warnings.iter().any(|warning| warning.code == "nodev-device"), expected, "{path}");
    }
}

#[test]
fn content_keeps_its_order_and_is_no_mount_of_its_place() {
    let mut spec = default_spec();
    spec.content.clear();
    spec.dev = false;
    spec.add(Directory { path: "/a".into(), mode: None, uid: None, gid: None });
    spec.add(Symlink { target: "x".into(), path: "/a/hidden".into() });
    spec.add(defaults::filesystem("/a", "tmpfs", 0, &[]));
    spec.add(Symlink { target: "x".into(), path: "/a/seen".into() });
    let plan = Plan::new(&spec).unwrap();
    let names: Vec<_> = plan.steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(names[2..6], ["directory", "symlink", "mount", "symlink"]);
    let warnings: Vec<_> = plan.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["/a hides the earlier link /a/hidden"]);
}

#[test]
fn a_read_only_bind_with_something_below_writes_to_its_source() {
    let bind = |attributes| Mount {
        destination: "/data".into(),
        kind: MountKind::Bind {
            source: BindSource::Host("/srv/data".into()),
            recursive: true,
            optional: false,
            within: None,
        },
        attributes,
        propagation: vec![],
        id_map: None,
        ineffective: vec![],
    };
    let readonly = Attributes { set_recursive: attr::RDONLY, ..Attributes::default() };
    for (attributes, below, expected) in [
        (readonly, "/data/x", true),
        (readonly, "/database", false),
        (Attributes::default(), "/data/x", false),
    ] {
        let mut spec = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
        spec.add(bind(attributes));
        spec.add(defaults::filesystem(below, "tmpfs", 0, &[]));
        let warnings = Plan::new(&spec).unwrap().warnings;
        assert_eq!(warnings.iter().any(|warning| warning.code == "writes-to-source"), expected, "{below}");
    }
}

#[test]
fn the_last_word_about_a_missing_mask_and_the_last_value_of_a_sysctl_count() {
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    for (path, missing) in [
        ("/a", MissingMask::Skip),
        ("/b", MissingMask::Stub),
        ("//a", MissingMask::Error),
        ("/b", MissingMask::Skip),
    ] {
        spec.masks.push(Mask { path: path.into(), missing });
    }
    for (name, value) in [("kernel.sem", "1"), ("kernel.msgmax", "2"), ("kernel/sem", "3")] {
        spec.sysctl.push((name.into(), value.into()));
    }
    let plan = Plan::new(&spec).unwrap();
    let words = |name: &str| -> Vec<String> {
        let steps = plan.steps.iter().filter(|step| step.action.name() == name);
        steps.map(|step| step.action.flags().join(",")).collect()
    };
    assert_eq!(words("mask"), ["missing=error", "missing=stub"]);
    assert_eq!(words("sysctl"), ["2", "3"]);
    assert_eq!(words("stub").len(), 1);
}
