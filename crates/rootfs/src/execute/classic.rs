//! What mount(2) has no means for, found out before anything of the plan is mounted.

use crate::error::{Error, ErrorCode, Result};
use crate::hint::Hint;
use crate::kernel::classic::{Classic, MAX_OPTIONS, joined_option};
use crate::options::attr;
use crate::overlay::Overlay;
use crate::path::PathBytes;
use crate::plan::{Action, Plan};
use crate::spec::{Mount, MountKind, Namespace, Root};

/// Refuses a plan whose tree would have to be in a mount namespace that is not the container's own: before a place for mounts
/// is made in it.
pub fn check_namespaces(plan: &Plan) -> Result<()> {
    if plan.namespaces().is_none_or(|namespaces| namespaces.mount == Namespace::New) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Unsupported,
        "without a mount namespace of its own the tree has to be assembled detached, which needs Linux 6.15",
    ))
}

/// Refuses a plan that can't be carried out at level `classic`, with what it is and which kernel has it.
pub fn check(kernel: &Classic<'_>, plan: &Plan) -> Result<()> {
    check_with(plan, || kernel.has_nosymfollow())
}

fn check_with(plan: &Plan, has_nosymfollow: impl Fn() -> bool) -> Result<()> {
    for step in &plan.steps {
        let what = match &step.action {
            Action::Root { root: Root::Overlay { overlay, .. }, .. } => too_many_layers(overlay),
            Action::Mount { mount, .. } => unsupported(mount, &has_nosymfollow),
            _ => None,
        };
        if let Some(what) = what {
            let name = step.action.name();
            let place = step.action.destination().map_or_else(String::new, |path| format!(" {path}"));
            let mut error =
                Error::new(ErrorCode::Unsupported, format!("step {} ({name}{place}): {what}", step.index));
            error.step = Some(step.index);
            error.destination = step.action.destination();
            error.source = step.action.source();
            error.flags = step.action.flags();
            return Err(error.with_hint(Hint::NoMountApi));
        }
    }
    Ok(())
}

fn unsupported(mount: &Mount, has_nosymfollow: &impl Fn() -> bool) -> Option<String> {
    let attributes = &mount.attributes;
    if (attributes.set | attributes.set_recursive) & attr::NOSYMFOLLOW != 0 && !has_nosymfollow() {
        return Some("nosymfollow needs Linux 5.10".to_owned());
    }
    if mount.id_map.is_some() {
        return Some("idmapped mounts need Linux 5.12".to_owned());
    }
    let (fstype, data) = match &mount.kind {
        MountKind::Filesystem { fstype, data, .. } => (fstype.as_str(), data),
        MountKind::Overlay(overlay) => match too_many_layers(overlay) {
            None => ("overlay", &overlay.data),
            what => return what,
        },
        _ => return None,
    };
    let mut length = 0;
    for (key, value) in data {
        let value = value.as_deref().map(PathBytes::from);
        let Some(option) = joined_option(fstype, key, value.as_ref().map(PathBytes::as_bytes)) else {
            return Some(format!("a comma in the option \"{key}\" needs the mount API of Linux 5.2"));
        };
        length += option.len() + 1;
    }
    if length > MAX_OPTIONS {
        return Some(format!("more than {MAX_OPTIONS} bytes of options need the mount API of Linux 5.2"));
    }
    None
}

/// Each is named by its number, `proc/self/fd/123:`, in one string with the other options.
fn too_many_layers(overlay: &Overlay) -> Option<String> {
    const LIMIT: usize = 200;
    (overlay.lower.len() > LIMIT)
        .then(|| format!("an overlay of more than {LIMIT} layers needs the mount API of Linux 5.2"))
}

#[cfg(test)]
mod tests {
    use super::check_with;
    use crate::defaults;
    use crate::error::ErrorCode;
    use crate::kernel::classic::joined_option;
    use crate::options::attr;
    use crate::overlay::Overlay;
    use crate::plan::Plan;
    use crate::spec::{IdMap, Mount, MountIdMap, MountIds, MountKind, Namespace, Root, RootfsSpec};

    fn refused(mount: Mount) -> Option<String> {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(mount);
        let error = check_with(&Plan::new(&spec).unwrap(), || false).err()?;
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert_eq!(error.destination, Some("/tmp".into()));
        Some(error.message)
    }

    #[test]
    fn a_mount_namespace_of_others_is_left_alone() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        super::check_namespaces(&Plan::new(&spec).unwrap()).unwrap();
        spec.namespaces.mount = Namespace::Path("/proc/1/ns/mnt".into());
        let error = super::check_namespaces(&Plan::new(&spec).unwrap()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(error.message.contains("Linux 6.15"), "{}", error.message);
    }

    #[test]
    fn ordinary_mounts_can_be_made() {
        assert_eq!(refused(defaults::filesystem("/tmp", "tmpfs", attr::RDONLY, &[("size", "1m")])), None);
    }

    #[test]
    fn what_mount_2_can_not_do_is_named() {
        let message = refused(defaults::filesystem("/tmp", "tmpfs", attr::NOSYMFOLLOW, &[])).unwrap();
        assert!(message.contains("nosymfollow needs Linux 5.10"), "{message}");
        let message = refused(defaults::filesystem("/tmp", "tmpfs", 0, &[("huge", "a,b")])).unwrap();
        assert!(message.contains("a comma in the option \"huge\""), "{message}");
        let long = "x".repeat(5000);
        let message = refused(defaults::filesystem("/tmp", "tmpfs", 0, &[("huge", &long)])).unwrap();
        assert!(message.contains("4095 bytes"), "{message}");
    }

    #[test]
    fn idmaps_and_many_layers_are_named() {
        let mut mount = defaults::filesystem("/tmp", "tmpfs", 0, &[]);
        mount.id_map = Some(MountIdMap {
            ids: MountIds::Map(IdMap { uids: Vec::new(), gids: Vec::new() }),
            recursive: false,
        });
        assert!(super::unsupported(&mount, &|| true).unwrap().contains("idmapped mounts need Linux 5.12"));
        let overlay = |count| Overlay { lower: vec!["/l".into(); count], ..Overlay::default() };
        mount.id_map = None;
        mount.kind = MountKind::Overlay(overlay(200));
        assert_eq!(super::unsupported(&mount, &|| true), None);
        mount.kind = MountKind::Overlay(overlay(201));
        assert!(super::unsupported(&mount, &|| true).unwrap().contains("200 layers"));
    }

    #[test]
    fn only_overlay_and_labels_can_have_a_comma() {
        let label = b"system_u:object_r:tmp_t:s0:c1,c2";
        let quoted = [&b"context=\""[..], label, b"\""].concat();
        assert_eq!(joined_option("tmpfs", "context", Some(label)), Some(quoted));
        assert_eq!(joined_option("overlay", "lowerdir", Some(b"/a,b")), Some(b"lowerdir=/a\\,b".to_vec()));
        assert_eq!(joined_option("tmpfs", "size", Some(b"1,ro")), None);
        assert_eq!(joined_option("tmpfs", "noswap", None), Some(b"noswap".to_vec()));
        assert_eq!(joined_option("tmpfs", "a,b", None), None);
    }
}
