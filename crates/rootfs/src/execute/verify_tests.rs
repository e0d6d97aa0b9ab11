//! Each way in which the kernel's mount table can differ from the plan, on the recording kernel.

use super::Level;
use super::tests::{bind, run, spec, tree};
use crate::error::{Error, ErrorCode};
use crate::kernel::recording::{Node, Recording};
use crate::kernel::{ListedMount, MountState};
use crate::options::{PropagationState, attr, parse};
use crate::plan::Warning;
use crate::spec::{Hook, HookPoint, Mount, Root, RootfsSpec};

fn failing(tamper: impl FnMut(&mut Vec<ListedMount>) + 'static) -> Box<Error> {
    let kernel = tree();
    *kernel.tamper.borrow_mut() = Some(Box::new(tamper));
    let error = run(&kernel, &spec(), Level::Detached).unwrap_err();
    assert_eq!(error.code, ErrorCode::Verify, "{error}");
    error
}

fn at<'a>(table: &'a mut [ListedMount], path: &str) -> &'a mut ListedMount {
    table.iter_mut().find(|mount| mount.mountpoint == path.into()).expect("a mount there")
}

/// One that is not in the plan.
fn stranger(table: &[ListedMount], on: &str, mountpoint: &str) -> ListedMount {
    let parent = table.iter().find(|mount| mount.mountpoint == on.into()).expect("a mount there");
    ListedMount { id: 1_000_000, parent: parent.id, mountpoint: mountpoint.into(), ..parent.clone() }
}

#[test]
fn what_is_as_planned_is_fine() {
    for level in [Level::Detached, Level::Attached] {
        let outcome = run(&tree(), &spec(), level).unwrap();
        assert_eq!(outcome.report.warnings, [], "{level:?}");
    }
}

#[test]
fn a_mount_that_is_missing() {
    let error = failing(|table| table.retain(|mount| mount.mountpoint != "/data".into()));
    assert!(error.message.contains("/data: wanted a mount, found none"), "{error}");
    assert_eq!(error.destination, Some("/data".into()));
}

#[test]
fn a_mount_that_was_moved() {
    let kernel = tree();
    kernel.leads_to_no_mounts.set(true);
    *kernel.tamper.borrow_mut() = Some(Box::new(|table| at(table, "/data").mountpoint = "/elsewhere".into()));
    let error = run(&kernel, &spec(), Level::Detached).unwrap_err();
    assert!(error.message.contains("/data: wanted it there, found it on /elsewhere"), "{error}");
    // One that isn't the first in its directory too.
    let kernel = tree();
    kernel.leads_to_no_mounts.set(true);
    *kernel.tamper.borrow_mut() = Some(Box::new(|table| at(table, "/tmp").mountpoint = "/elsewhere".into()));
    let error = run(&kernel, &spec(), Level::Detached).unwrap_err();
    assert!(error.message.contains("/tmp: wanted it there, found it on /elsewhere"), "{error}");
    let error = failing(|table| at(table, "/data").parent = 77);
    assert!(error.message.contains("found it on mount 77"), "{error}");
}

#[test]
fn a_mount_that_is_reached_through_a_link_is_in_place() {
    let kernel = Recording::new(&[("/link", Node::Symlink("/real")), ("/real", Node::Directory)]);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    spec.add(bind("/data", "/link"));
    run(&kernel, &spec, Level::Detached).unwrap();
}

#[test]
fn flags_that_are_lacking_or_too_many() {
    let error = failing(|table| at(table, "/data").state.attributes = attr::NOSUID);
    assert!(error.message.contains("/data: wanted ro,suid, found rw,nosuid"), "{error}");
    let error = failing(|table| at(table, "/tmp").state.attributes |= attr::NOATIME);
    assert!(error.message.contains("/tmp: wanted relatime, found noatime"), "{error}");
    let error = failing(|table| at(table, "/data").state.attributes |= attr::IDMAP);
    assert!(error.message.contains("/data: wanted not idmapped, found idmapped"), "{error}");
    let error = failing(|table| at(table, "/etc/secret").state.propagation.shared = true);
    assert!(error.message.contains("/etc/secret: wanted private, found shared"), "{error}");
}

#[test]
fn a_filesystem_that_is_not_read_only() {
    let error = failing(|table| at(table, "/tmp").superblock_readonly = false);
    assert!(error.message.contains("/tmp: wanted a read-only filesystem"), "{error}");
}

#[test]
fn all_differences_are_told_at_once() {
    let error = failing(|table| {
        at(table, "/data").state.attributes = 0;
        at(table, "/tmp").state.propagation = PropagationState { slave: true, ..Default::default() };
    });
    let differences = "/data: wanted ro, found rw; /tmp: wanted private, found slave";
    assert!(error.message.ends_with(differences), "{error}");
}

#[test]
fn a_mount_that_nobody_asked_for() {
    let error = failing(|table| {
        let other = stranger(table, "/tmp", "/tmp/x");
        table.push(other);
    });
    assert!(error.message.ends_with("/tmp/x: wanted no mount, found one"), "{error}");
    // Even below a recursive bind, if it is younger than what was made after that.
    let error = failing(|table| {
        let other = stranger(table, "/data", "/data/x");
        table.push(other);
    });
    assert!(error.message.ends_with("/data/x: wanted no mount, found one"), "{error}");
}

#[test]
fn a_mount_that_hides_others() {
    let error = failing(|table| {
        let other = stranger(table, "/", "/etc");
        table.push(other);
    });
    assert!(error.message.ends_with("/etc: wanted no mount, found one that hides /etc/secret"), "{error}");
    // What is on the root's own top can't have come along, whatever its number is.
    let error = failing(|table| {
        let other = stranger(table, "/", "/");
        let id = at(table, "/").id + 1;
        table.push(ListedMount { id, ..other });
    });
    assert!(
        error.message.contains("/: wanted no mount, found one that hides /, /data, /etc/secret"),
        "{error}"
    );
}

fn warnings(spec: &RootfsSpec, tamper: impl FnMut(&mut Vec<ListedMount>) + 'static) -> Vec<Warning> {
    let kernel = tree();
    *kernel.tamper.borrow_mut() = Some(Box::new(tamper));
    run(&kernel, spec, Level::Detached).unwrap().report.warnings
}

#[test]
fn what_a_recursive_bind_brings_along_is_listed() {
    let bring = |table: &mut Vec<ListedMount>| {
        let mut other = stranger(table, "/data", "/data/sub");
        other.id = at(table, "/data").id + 1;
        // One on top of another, too.
        let mut above = ListedMount { parent: other.id, id: other.id + 1, ..other.clone() };
        let mut deeper = ListedMount { parent: above.id, mountpoint: "/data/sub/er".into(), ..above.clone() };
        deeper.id += 1;
        above.state.attributes = attr::RDONLY;
        table.extend([other, above, deeper]);
    };
    let told = warnings(&spec(), bring);
    let told: Vec<_> = told.iter().map(|warning| (&*warning.code, &*warning.message, warning.step)).collect();
    let message = "what is mounted on /data brings others along: /data/sub, /data/sub, /data/sub/er";
    assert_eq!(told, [("extra-mount", message, Some(2))]);
}

#[test]
fn what_comes_from_others_is_listed() {
    let kernel = tree();
    let shared = PropagationState { shared: true, peers: true, ..PropagationState::default() };
    kernel.source.set(MountState { attributes: 0, propagation: shared });
    *kernel.tamper.borrow_mut() = Some(Box::new(|table| {
        // The root is a slave of where its directory is.
        let other = stranger(table, "/", "/data");
        table.push(other);
    }));
    let report = run(&kernel, &spec(), Level::Detached).unwrap().report;
    let messages: Vec<_> = report.warnings.iter().map(|warning| &*warning.message).collect();
    assert_eq!(messages, ["others have mounted on /data meanwhile, which hides /data"]);
}

#[test]
fn what_hooks_mount_is_listed_and_what_they_change_is_an_error() {
    let mut spec = spec();
    let hook = Hook {
        point: HookPoint::CreateContainer,
        path: "/h".into(),
        args: vec![],
        env: vec![],
        timeout: None,
        function: None,
    };
    spec.hooks.push(hook);
    let kernel = tree();
    kernel.mounts_by_hook("/tmp/by-hook");
    let report = run(&kernel, &spec, Level::Detached).unwrap().report;
    let messages: Vec<_> = report.warnings.iter().map(|warning| &*warning.message).collect();
    assert_eq!(messages, ["a hook has mounted on /tmp/by-hook"]);
    let kernel = tree();
    *kernel.tamper.borrow_mut() = Some(Box::new(|table| at(table, "/data").state.attributes = 0));
    let error = run(&kernel, &spec, Level::Detached).unwrap_err();
    assert!(error.message.contains("/data: wanted ro, found rw"), "{error}");
}

#[test]
fn a_bind_without_words_keeps_exactly_the_flags_of_its_source() {
    let words = |words: &[&str], found: u64| {
        let kernel = tree();
        let attributes = attr::NODEV | attr::NOSYMFOLLOW | attr::NOATIME;
        kernel.source.set(MountState { attributes, ..MountState::default() });
        let parsed = parse(words).unwrap();
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(Mount {
            attributes: parsed.attributes,
            propagation: parsed.propagation,
            ..bind("/data", "/data")
        });
        *kernel.tamper.borrow_mut() =
            Some(Box::new(move |table| at(table, "/data").state.attributes = found));
        run(&kernel, &spec, Level::Detached).map(drop).map_err(|error| error.message.clone())
    };
    let source = attr::NODEV | attr::NOSYMFOLLOW | attr::NOATIME;
    words(&["bind"], source).unwrap();
    assert!(words(&["bind"], source | attr::NOEXEC).unwrap_err().contains("wanted exec, found noexec"));
    assert!(words(&["bind"], attr::NODEV | attr::NOATIME).unwrap_err().contains("wanted nosymfollow"));
    words(&["bind", "ro"], attr::RDONLY | attr::NOATIME).unwrap();
    assert!(words(&["bind", "ro"], source | attr::RDONLY).unwrap_err().contains("wanted dev,symfollow"));
}

#[test]
fn a_slave_of_a_private_source_is_private() {
    let state = |peer: bool| PropagationState { shared: peer, peers: peer, ..PropagationState::default() };
    for (peer, found) in [(false, "private"), (true, "slave")] {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(bind("/data", "/data"));
        let kernel = || {
            let kernel = tree();
            kernel.source.set(MountState { attributes: 0, propagation: state(peer) });
            kernel
        };
        run(&kernel(), &spec, Level::Detached).unwrap();
        let kernel = kernel();
        let found_is_private = move |table: &mut Vec<ListedMount>| {
            assert_eq!(at(table, "/data").state.propagation.words(), found);
            at(table, "/data").state.propagation = PropagationState::default();
        };
        *kernel.tamper.borrow_mut() = Some(Box::new(found_is_private));
        assert_eq!(run(&kernel, &spec, Level::Detached).is_ok(), !peer);
    }
}

#[test]
fn a_thousand_binds_are_compared_in_one_pass() {
    let names: Vec<String> = (0..1000).map(|index| format!("/{index}")).collect();
    let nodes: Vec<(&str, Node)> = names.iter().map(|name| (name.as_str(), Node::Directory)).collect();
    let kernel = Recording::new(&nodes);
    let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
    for name in &names {
        spec.add(bind("/data", name));
    }
    let before = kernel.tables_read.get();
    run(&kernel, &spec, Level::Detached).unwrap();
    assert_eq!(kernel.tables_read.get() - before, 1);
}
