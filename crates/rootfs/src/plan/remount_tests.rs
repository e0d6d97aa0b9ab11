//! Remounts in a plan: they need no mountpoint, hide nothing, and what they say comes last.

use super::*;
use crate::spec::mount_from_oci;

fn plan(mounts: &[(&str, Option<&str>, &[&str])]) -> Plan {
    let mut spec = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
    for (destination, fstype, words) in mounts {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        spec.add(mount_from_oci((*destination).into(), None, *fstype, &words, None).unwrap());
    }
    Plan::new(&spec).unwrap()
}

/// The steps that make mounts read-only at the end, by the steps that they are about.
fn made_readonly(plan: &Plan) -> Vec<u32> {
    plan.steps
        .iter()
        .filter_map(|step| match step.action {
            Action::ReadonlyMount { mount, .. } => Some(mount),
            _ => None,
        })
        .collect()
}

#[test]
fn a_remount_hides_nothing_and_is_no_second_mount() {
    let plan = plan(&[
        ("/a", Some("tmpfs"), &[]),
        ("/a/b", Some("tmpfs"), &[]),
        ("/a", None, &["remount", "nosuid"]),
    ]);
    assert_eq!(plan.warnings, []);
    assert!(plan.changes_attached_mounts());
    assert_eq!(plan.steps[4].action.flags(), ["remount", "nosuid"]);
}

/// What a remount says is known when it is carried out: through a link it can be about any mount.
#[test]
fn what_is_read_only_at_the_end_is_a_step_until_then() {
    let tmpfs = ("/a", Some("tmpfs"), &["ro"][..]);
    assert_eq!(made_readonly(&plan(&[tmpfs])), [2]);
    assert_eq!(made_readonly(&plan(&[tmpfs, ("/a", None, &["remount", "rw"])])), [2]);
    assert_eq!(made_readonly(&plan(&[tmpfs, ("/a", None, &["remount", "nosuid"])])), [2]);
    // At once, unless something is made below it later.
    assert_eq!(made_readonly(&plan(&[tmpfs, ("/a", None, &["remount", "ro"])])), [2]);
    let below = ("/a/b", Some("tmpfs"), &[][..]);
    assert_eq!(made_readonly(&plan(&[tmpfs, ("/a", None, &["remount", "ro"]), below])), [2, 3]);
}

#[test]
fn a_mount_on_the_root_replaces_what_was_made_before() {
    let plan =
        plan(&[("/a", Some("tmpfs"), &["ro"]), ("/", Some("tmpfs"), &["ro"]), ("/b", Some("tmpfs"), &[])]);
    assert_eq!(made_readonly(&plan), [3]);
    assert!(plan.changes_attached_mounts());
}
