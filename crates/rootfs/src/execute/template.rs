//! What the containers of a template have in common: sources that are opened once, and where the kernel and the plan allow it a
//! tree that holds some of the mounts already, of which each container begins with a copy.
//!
//! Nothing in that tree can be written by a container that another container could not see without it: a copy of a mount shows
//! the same filesystem, so only binds are in it. (A read-only filesystem would not do: who has rights over the mount can make it
//! writable, for all.) Everything else is made for each container, in the order of the plan; so is what is on, below or above
//! such a mount.
//!
//! The mountpoints are names in the root directory, which a container may be able to write: it can rename what they are in, for
//! the tree and all later copies of it. So each container makes sure that each mount is where it belongs before it does
//! anything to the tree by a path (`check_shared`), also without `verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::sources::{self, Description};
use super::verify::Expectation;
use super::{Execution, Level, Setting, Surroundings};
use crate::error::{CallContext, Error, ErrorCode, Result, SysError};
use crate::journal::Writer;
use crate::kernel::{FileKind, Follow, Kernel};
use crate::options::{Links, PropagationType};
use crate::origin::Location;
use crate::path::PathBytes;
use crate::plan::{Action, Plan, Stage, Step, Warning};
use crate::protocol::ExecutedStep;
use crate::resolve::{self, Missing};
use crate::spec::{BindSource, Mount, MountKind, Root, UserNamespace};

/// What is ready for the containers of a template, apart from the descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// The root of the tree that holds mounts already; `None` if nothing is shared but what is open.
    tree: Option<Description>,
    /// The steps that were carried out in it.
    steps: Vec<SharedStep>,
    /// What their mounts look like.
    mounts: Mounts,
    /// The steps whose sources are open, in the order of the descriptors. That of the root step is the tree, if there is one.
    pinned: Vec<u32>,
    /// The steps whose optional sources are missing.
    missing: BTreeSet<u32>,
    /// What the caller should know.
    pub(super) warnings: Vec<Warning>,
    /// The place of the first of its descriptors among those of a request.
    first: u32,
}

/// A step that needn't be carried out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SharedStep {
    index: u32,
    resolved: Option<PathBytes>,
    skipped: bool,
}

/// What the mounts of a tree must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mounts(Vec<Expectation>);

impl Template {
    /// The root of the tree.
    pub(super) fn tree(&self) -> Option<&Description> {
        self.tree.as_ref()
    }

    pub(super) fn mounts(&self) -> &[Expectation] {
        &self.mounts.0
    }

    pub(super) fn is_missing(&self, step: u32) -> bool {
        self.missing.contains(&step)
    }

    /// Which descriptor of a request is the source of a step.
    pub(super) fn descriptor(&self, step: u32) -> Option<usize> {
        // They are in the order of the steps.
        let place = self.pinned.binary_search(&step).ok()?;
        Some(self.first as usize + place)
    }

    /// How many descriptors it needs.
    pub fn descriptors(&self) -> usize {
        self.pinned.len()
    }

    /// The same for requests in which as many descriptors come before its own.
    #[must_use]
    pub fn after(self, descriptors: u32) -> Self {
        Self { first: descriptors, ..self }
    }

    /// What is left of a plan for each container.
    pub fn rest_of(&self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        for SharedStep { index, resolved, skipped } in &self.steps {
            if let Some(step) = plan.steps.get_mut(*index as usize) {
                let destination = step.action.destination().unwrap_or_default();
                step.action = Action::Shared { destination, resolved: resolved.clone(), skipped: *skipped };
            }
        }
        plan
    }
}

/// What a keeper holds.
#[derive(Debug)]
pub struct Kept {
    /// What it is.
    pub template: Template,
    /// Its descriptors, in their order.
    pub descriptors: Vec<OwnedFd>,
    /// Locks on host trees, to be held as long as the template is there.
    pub locks: Vec<OwnedFd>,
    /// What the caller should know of the template.
    pub warnings: Vec<Warning>,
}

/// Whether a tree can be made that all containers of a plan begin with: each has to put the rest into a copy that is attached
/// nowhere, so that nothing may need it attached before all is in it.
pub fn can_share(plan: &Plan, level: Level) -> bool {
    let prevents = |step: &Step| match &step.action {
        Action::ReadonlyRoot { recursive } => *recursive,
        Action::Root { propagation, .. } => propagation.kind == PropagationType::Unbindable,
        // What is bound again is on a mount whose source has to be known.
        Action::Mount {
            mount: Mount { kind: MountKind::Bind { source: BindSource::InRoot(_), .. }, .. },
            ..
        } => true,
        _ => false,
    };
    // What a user namespace that is joined maps, only a process in it knows.
    let joins_user_namespace =
        plan.namespaces().is_some_and(|namespaces| matches!(namespaces.user, UserNamespace::Path(_)));
    level == Level::Detached
        && !joins_user_namespace
        && matches!(plan.root(), Some(Root::Directory(_)))
        && !plan.needs_attached_tree()
        && !plan.changes_attached_mounts()
        && !plan.enters_by_chroot()
        && !plan.steps.iter().any(prevents)
}

/// Opens the sources of a plan, and if `share` says so makes the tree.
pub fn keep(
    kernel: &dyn Kernel,
    plan: &Plan,
    request: &sources::Request<'_>,
    surroundings: &mut dyn Surroundings,
    journal: Option<Writer>,
    share: bool,
) -> Result<Kept> {
    let root = plan.steps.iter().find(|step| matches!(step.action, Action::Root { .. }));
    let root = root.ok_or_else(|| Error::new(ErrorCode::Spec, "the plan has no root"))?;
    if !share {
        return Ok(Kept::with(Template::default(), sources::pin(kernel, plan, |_| true)?, Vec::new()));
    }
    let only_root = BTreeSet::from([root.index]);
    let opened = sources::open(kernel, plan, &sources::Request { only: Some(&only_root), ..*request })?;
    let setting = Setting {
        level: Level::Detached,
        own_mount_namespace: false,
        user: None,
        new_cgroup_namespace: false,
        verify: request.verify,
        stub: None,
    };
    let mut execution = Execution::new(kernel, plan, setting, opened, surroundings, journal);
    let description = execution.sources.root_description().cloned();
    execution.carry_out(root).map_err(|error| Execution::locate(error, root))?;
    let places = execution.places()?;
    let (shared, others) = shareable(plan, &places);
    execution.sources = sources::open(kernel, plan, &sources::Request { only: Some(&shared), ..*request })?;
    let mut steps = Vec::new();
    for step in plan.steps.iter().filter(|step| shared.contains(&step.index)) {
        let done = execution.carry_out(step).map_err(|error| Execution::locate(error, step))?;
        let place = places.get(&step.index).and_then(Option::as_ref);
        if let (false, Some(place), Some(expected)) = (done.skipped, place, execution.expectations.last_mut())
        {
            // No link that is changed later leads elsewhere.
            expected.path = Some(place.path.clone());
        }
        let executed = ExecutedStep {
            index: step.index,
            resolved: done.resolved.clone(),
            strategy: done.strategy.map(str::to_owned),
            duration_ns: 0,
        };
        execution.ground.surroundings.step_done(&executed);
        steps.push(SharedStep { index: step.index, resolved: done.resolved, skipped: done.skipped });
    }
    let rest = |step: u32| step != root.index && !shared.contains(&step);
    let mut pinned = sources::pin(kernel, plan, rest)?;
    for step in plan.steps.iter().filter(|step| others.contains(&step.index)) {
        // They are in the order of the steps.
        let source = pinned.binary_search_by_key(&step.index, |(other, _)| *other).ok();
        let source = source.and_then(|at| pinned[at].1.as_ref());
        execution
            .make_mountpoint(step, source.or_else(|| given(step, request.fds)))
            .map_err(|error| Execution::locate(error, step))?;
    }
    let tree = execution.root()?;
    let tree = rustix::io::fcntl_dupfd_cloexec(&*tree, 0)
        .map_err(|errno| SysError::new("fcntl", errno, "F_DUPFD_CLOEXEC"))
        .context(ErrorCode::Mount, || "the root's descriptor can't be duplicated")?;
    pinned.insert(0, (root.index, Some(tree)));
    let template = Template {
        tree: description,
        steps,
        mounts: Mounts(execution.expectations.into_shared()),
        warnings: execution.report.warnings,
        ..Template::default()
    };
    let mut kept = Kept::with(template, pinned, execution.ground.locks);
    kept.warnings.extend(not_shared(&places));
    Ok(kept)
}

/// The descriptor that a bind was given as its source.
fn given<'a>(step: &Step, fds: &'a [OwnedFd]) -> Option<&'a OwnedFd> {
    match &step.action {
        Action::Mount {
            mount: Mount { kind: MountKind::Bind { source: BindSource::Fd { index, .. }, .. }, .. },
            ..
        } => fds.get(*index as usize),
        _ => None,
    }
}

/// Why nothing is shared, if a step is to blame.
fn not_shared(places: &Places) -> Option<Warning> {
    let (step, _) = places.iter().find(|(_, place)| place.is_none())?;
    Some(Warning {
        code: "template-not-shared".to_owned(),
        message: "where it takes effect depends on a link that leads nowhere, or on \"..\": each container makes all its mounts"
            .to_owned(),
        step: Some(*step),
        location: Location::default(),
    })
}

impl Kept {
    fn with(mut template: Template, pinned: Vec<(u32, Option<OwnedFd>)>, locks: Vec<OwnedFd>) -> Self {
        let mut descriptors = Vec::with_capacity(pinned.len());
        for (step, file) in pinned {
            match file {
                Some(file) => {
                    template.pinned.push(step);
                    descriptors.push(file);
                }
                None => {
                    template.missing.insert(step);
                }
            }
        }
        let warnings = template.warnings.clone();
        Self { template, descriptors, locks, warnings }
    }
}

/// Where steps take effect, by their numbers; `None` where that can't be told.
type Places = BTreeMap<u32, Option<Place>>;

/// Where a step takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Without symbolic links.
    path: PathBytes,
    /// Whether it is on the root itself, and on no mount that came with it.
    on_root: bool,
}

impl Execution<'_> {
    /// Where the steps take effect that put something into the tree, as it is before the first of them: `None` for one that
    /// can't be told. Another step that is in the way of it has a place that is in the way too.
    fn places(&mut self) -> Result<Places> {
        let plan = self.plan;
        let steps = plan.steps.iter().filter(|step| is_content(step));
        steps.map(|step| Ok((step.index, self.place_of(step)?))).collect()
    }

    fn place_of(&mut self, step: &Step) -> Result<Option<Place>> {
        let Some(path) = step.action.destination().filter(|path| !path.has_parents()) else {
            return Ok(None);
        };
        let mut names: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        // A name that is made itself, wherever a link there would lead.
        let entry = match step.action {
            Action::Link(_) | Action::Symlink { .. } | Action::Device(_) | Action::Stub(_) => names.pop(),
            _ => None,
        };
        let place = self.place_of_names(&names)?;
        Ok(place.map(|Place { path, on_root }| Place {
            path: entry.iter().fold(path, |path, name| path.join(name.as_slice())),
            on_root,
        }))
    }

    fn place_of_names(&mut self, names: &[Vec<u8>]) -> Result<Option<Place>> {
        let root = self.root()?;
        for there in (0..=names.len()).rev() {
            let join = |top: PathBytes, names: &[Vec<u8>]| {
                names.iter().fold(top, |path, name| path.join(name.as_slice()))
            };
            let (existing, missing) = names.split_at(there);
            let existing = join("/".into(), existing);
            let Ok(file) = resolve::resolve(self.kernel, root.as_fd(), &existing, Follow::All) else {
                // A link to nothing: what is made there is made where it leads.
                if there > 0
                    && resolve::resolve(self.kernel, root.as_fd(), &existing, Follow::AllButLast).is_ok()
                {
                    return Ok(None);
                }
                continue;
            };
            let status = self.kernel.status(file.as_fd());
            let status = status.context(ErrorCode::Mount, || format!("{existing} can't be looked at"))?;
            let Ok(plain) = self.plain_path_of(&existing) else { return Ok(None) };
            return Ok(Some(Place { path: join(plain, missing), on_root: status.mount == self.root_mount }));
        }
        Ok(None)
    }

    /// Makes a mountpoint for the containers: they would make it each, and none could remove it as long as others are there.
    fn make_mountpoint(&mut self, step: &Step, source: Option<&OwnedFd>) -> Result<()> {
        let Action::Mount { mount, .. } = &step.action else { return Ok(()) };
        let missing = match (&mount.kind, source) {
            (MountKind::Bind { .. }, Some(_)) if mount.links != Links::default() => return Ok(()),
            (MountKind::Bind { .. }, Some(source)) => {
                let status = self.kernel.status(source.as_fd());
                let status = status.context(ErrorCode::Source, || "the source can't be looked at")?;
                if status.kind == FileKind::Directory { Missing::Directory } else { Missing::File }
            }
            // What is bound is not there yet, or not at all.
            (MountKind::Bind { .. } | MountKind::Remount { .. }, _) => return Ok(()),
            (MountKind::File { .. }, _) => Missing::File,
            (MountKind::Filesystem { .. } | MountKind::Cgroup { .. } | MountKind::Overlay(_), _) => {
                Missing::Directory
            }
        };
        self.destination(&mount.destination, missing).map(drop)
    }

    fn plain_path_of(&mut self, path: &PathBytes) -> Result<PathBytes> {
        let root = self.root()?;
        resolve::plain_path(self.kernel, root.as_fd(), path, &mut self.ground)
    }
}

/// Whether a step puts something into the tree, or changes what is there.
fn is_content(step: &Step) -> bool {
    matches!(step.action.stage(), Stage::Mounts | Stage::Devices)
}

/// The steps whose mounts can be in a tree of which each container gets a copy, and those of the others that are in the root itself
/// before anything is mounted there.
fn shareable(plan: &Plan, places: &Places) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut shared, mut others) = (BTreeSet::new(), BTreeSet::new());
    // What can't be told could be in the way of anything.
    if places.values().any(Option::is_none) {
        return (shared, others);
    }
    let mut places: Vec<(&PathBytes, bool, u32)> = places
        .iter()
        .filter_map(|(step, place)| {
            let place = place.as_ref()?;
            let can = plan
                .steps
                .get(*step as usize)
                .is_some_and(|step| place.on_root && shows_the_same(step) && place.path.as_bytes() != b"/");
            Some((&place.path, can, *step))
        })
        .collect();
    places.sort_by(|(one, ..), (other, ..)| one.components().cmp(other.components()));
    // Now what is below a path follows it. One group at a time: a path that nothing contains, with all that is below.
    let mut rest = &places[..];
    while let Some((top, _, first)) = rest.first() {
        let end = rest.iter().position(|(path, ..)| !path.starts_with(top)).unwrap_or(rest.len());
        let (group, left) = rest.split_at(end);
        if let [(_, true, step)] = group {
            shared.insert(*step);
        } else {
            others.insert(*first);
        }
        rest = left;
    }
    (shared, others)
}

/// Whether a mount shows each container what it would show it without a template, and what others can't change through it.
fn shows_the_same(step: &Step) -> bool {
    let Action::Mount { mount, readonly_later: false, propagation_later: false } = &step.action else {
        return false;
    };
    // Copies of a shared mount are peers: what is mounted in one container would be seen in all. And of one that can't be bound
    // there is no copy.
    matches!(&mount.kind, MountKind::Bind { source: BindSource::Host(_) | BindSource::Fd { .. }, .. })
        && mount.links == Links::default()
        && mount
            .propagation
            .iter()
            .all(|one| matches!(one.kind, PropagationType::Private | PropagationType::Slave))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::options::Propagation;
    use crate::spec::{Content, RootfsSpec};

    fn bind(destination: &str) -> Mount {
        super::super::tests::bind("/source", destination)
    }

    /// Which destinations are shared, where each is where its path says.
    fn shared(content: Vec<Mount>, on_root: impl Fn(&str) -> bool) -> Vec<String> {
        let mut spec = RootfsSpec::new(Root::Directory("/root".into()));
        spec.content = content.into_iter().map(Content::Mount).collect();
        let plan = Plan::new(&spec).unwrap();
        let places: Places = plan
            .steps
            .iter()
            .filter(|step| is_content(step))
            .map(|step| {
                let path = step.action.destination().unwrap();
                let on_root = on_root(&path.to_string());
                (step.index, Some(Place { path, on_root }))
            })
            .collect();
        let (steps, _) = shareable(&plan, &places);
        steps
            .iter()
            .map(|step| plan.steps[*step as usize].action.destination().unwrap().to_string())
            .collect()
    }

    #[test]
    fn binds_are_shared_beside_what_is_not() {
        let content = vec![defaults::proc(), bind("/data"), bind("/data-2"), bind("/usr/share")];
        assert_eq!(shared(content, |_| true), ["/data", "/data-2", "/usr/share"]);
    }

    #[test]
    fn nothing_is_shared_that_something_else_is_on_or_in() {
        let content =
            vec![bind("/proc/x"), defaults::proc(), bind("/a"), bind("/a/b"), bind("/c"), bind("/c")];
        assert_eq!(shared(content, |_| true), Vec::<String>::new());
        // On a mount that came with the root.
        assert_eq!(shared(vec![bind("/a"), bind("/b")], |path| path == "/a"), ["/a"]);
    }

    #[test]
    fn without_all_places_nothing_is_shared() {
        let mut spec = RootfsSpec::new(Root::Directory("/root".into()));
        spec.content = vec![Content::Mount(bind("/a")), Content::Mount(bind("/b"))];
        let plan = Plan::new(&spec).unwrap();
        let place = Place { path: "/a".into(), on_root: true };
        assert!(shareable(&plan, &Places::from([(2, Some(place.clone())), (3, None)])).0.is_empty());
        assert_eq!(shareable(&plan, &Places::from([(2, Some(place))])).0, BTreeSet::from([2]));
    }

    #[test]
    fn mounts_that_pass_events_on_are_not_shared() {
        let mut mount = bind("/a");
        mount.propagation = vec![Propagation::from_name("rshared").unwrap()];
        assert_eq!(shared(vec![mount, bind("/b")], |_| true), ["/b"]);
    }
}
