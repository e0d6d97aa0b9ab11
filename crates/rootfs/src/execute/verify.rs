//! Comparing the kernel's mount table with the plan: a flag that didn't stick, or a mount that moved, is an error and no
//! surprise.
//!
//! Each mount is written down when it is attached, with what the kernel has to say about it at the end. One call lists the
//! table then, and one for each mount reads its state; nothing else is looked at while all is as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use super::Execution;
use super::possible::Possible;
use crate::error::{CallContext, Error, ErrorCode, Result};
use crate::hint::Hint;
use crate::journal::Identity;
use crate::kernel::{FileStatus, Follow, Kernel, ListedMount};
use crate::options::{Attributes, Propagation, PropagationState, attr};
use crate::path::PathBytes;
use crate::resolve::{self, Siblings};

/// The flags that are compared.
const COMPARED: u64 = attr::EXACT | attr::ATIME | attr::NODIRATIME | attr::IDMAP;
/// How many names a message has at most.
const NAMED: usize = 16;

/// The mount that a bind is a copy of, as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    attributes: u64,
    /// Flags that could be its filesystem's as well as its own.
    unsure: u64,
    propagation: Possible,
}

impl Original {
    /// What is known about the mount that a descriptor is on.
    pub(super) fn of(kernel: &dyn Kernel, file: BorrowedFd<'_>, id: u64) -> Result<Self> {
        let (state, flags) = kernel
            .source_state(file, id)
            .context(ErrorCode::Source, || "the flags of the source's mount can't be found out")?;
        Ok(match state {
            Some(state) => {
                Self { attributes: state.attributes, unsure: 0, propagation: state.propagation.into() }
            }
            None => Self {
                attributes: flags,
                unsure: flags & attr::RDONLY | attr::IDMAP,
                propagation: Possible::ANY,
            },
        })
    }
}

/// What a mount must look like at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, in any combination with the others"
)]
pub(super) struct Expectation {
    /// The step that made it.
    pub(super) step: u32,
    /// Its id.
    pub(super) mount: u64,
    /// The mount it is on, unless it is the root.
    pub(super) parent: Option<u64>,
    /// Where it is; symbolic links may be on the way. `None` if that is not known by a name.
    pub(super) path: Option<PathBytes>,
    /// Its flags.
    pub(super) attributes: u64,
    /// Flags that it may have or not.
    pub(super) unsure: u64,
    /// How events pass.
    pub(super) propagation: Possible,
    /// The same of the mount that it was attached to, then.
    attached_to: Possible,
    /// Whether its filesystem must be read-only too.
    pub(super) superblock_readonly: bool,
    /// Whether it has brought others along.
    pub(super) recursive: bool,
    /// Whether nobody else can move or rename what is in it.
    pub(super) keeps_places: bool,
    /// Whether what it has brought along may be written to, whatever was said before.
    pub(super) below_writable: bool,
    /// Of a bind, what it shows.
    pub(super) shows: Option<Identity>,
}

impl Expectation {
    /// The number that no mount has.
    const UNKNOWN: u64 = 0;

    /// A private mount with these flags.
    pub(super) fn new(step: u32, mount: u64, parent: u64, path: Option<PathBytes>, attributes: u64) -> Self {
        Self {
            step,
            mount,
            parent: Some(parent),
            path,
            attributes,
            unsure: 0,
            propagation: Possible::PRIVATE,
            attached_to: Possible::PRIVATE,
            superblock_readonly: false,
            recursive: false,
            keeps_places: false,
            below_writable: false,
            shows: None,
        }
    }

    /// The root.
    pub(super) fn of_root(step: u32, mount: u64) -> Self {
        Self { parent: None, ..Self::new(step, mount, 0, Some("/".into()), 0) }
    }

    /// Nothing is known but that it has these flags at least, and has brought others along.
    pub(super) fn with_at_least(&mut self, attributes: u64) {
        self.attributes = attributes;
        self.unsure = !attributes;
        self.recursive = true;
        self.keeps_places = false;
    }

    /// It is a copy of what the caller has, with the flags that were asked for.
    pub(super) fn is_fallback(&mut self, attributes: &Attributes, flags: u64) {
        self.with_at_least(flags & (attr::PLAIN | attributes.mentioned()));
        self.unsure &= !(attributes.mentioned() & !attr::PLAIN);
    }

    /// It is a copy of a mount, with flags of its own, and propagation that it got before it was attached and after.
    pub(super) fn copied_from(
        &mut self,
        original: Option<Original>,
        attributes: &Attributes,
        (before, after): (&[Propagation], &[Propagation]),
        flags_are_locked: bool,
    ) {
        let mentioned = attributes.mentioned() | if attributes.exact { attr::EXACT } else { 0 };
        let unknown = Original { attributes: 0, unsure: !0, propagation: Possible::ANY };
        let original = original.unwrap_or(unknown);
        self.attributes = attributes.applied_to(original.attributes);
        self.unsure = original.unsure & !mentioned;
        if flags_are_locked && attributes.exact {
            // What is not asked to go may stay.
            self.unsure |= original.attributes & attr::EXACT & !attributes.mentioned();
        }
        self.propagation = original.propagation.changed(before).attached_to(self.attached_to).changed(after);
    }

    /// It shows other owners than its source.
    pub(super) fn is_idmapped(&mut self) {
        self.attributes |= attr::IDMAP;
        self.unsure &= !attr::IDMAP;
    }

    /// It was changed where it is.
    pub(super) fn change(&mut self, attributes: &Attributes, propagation: &[Propagation]) {
        if attributes.clear_recursive & attr::RDONLY != 0 {
            self.below_writable = true;
        }
        self.attributes = attributes.applied_to(self.attributes);
        self.unsure &= !attributes.mentioned();
        self.propagation = self.propagation.changed(propagation);
    }

    fn compare(&self, found: &ListedMount) -> Vec<(String, String)> {
        let mut differences = Vec::new();
        let bits = (found.state.attributes ^ self.attributes) & COMPARED & !self.unsure;
        if bits != 0 {
            differences.push((words(self.attributes, bits), words(found.state.attributes, bits)));
        }
        if !self.propagation.includes(found.state.propagation) {
            differences.push((self.propagation.words(), found.state.propagation.words().to_owned()));
        }
        if self.superblock_readonly && !found.superblock_readonly {
            differences
                .push(("a read-only filesystem".to_owned(), "a filesystem that can be written".to_owned()));
        }
        differences
    }
}

/// Flags that differ, in words: `ro` and `rw` and the like.
fn words(bits: u64, differing: u64) -> String {
    let mode = bits & attr::ATIME;
    let plain = Attributes {
        set: bits & differing & !attr::ATIME,
        clear: !bits & differing & !attr::ATIME,
        atime: (differing & attr::ATIME != 0).then_some(mode),
        ..Attributes::default()
    };
    let mut words = plain.words();
    if differing & attr::IDMAP != 0 {
        words.push(if bits & attr::IDMAP != 0 { "idmapped" } else { "not idmapped" });
    }
    words.join(",")
}

/// All that was attached.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    list: Vec<Expectation>,
    by_mount: BTreeMap<u64, usize>,
    /// Mounts that hooks have made, and the step of the hook.
    by_hooks: BTreeMap<u64, u32>,
}

impl Expectations {
    /// Adds a mount, which becomes shared if the one that it is on is.
    pub(super) fn add(&mut self, mut one: Expectation) -> &mut Expectation {
        if let Some(parent) = one.parent {
            // One that was brought along isn't known.
            one.attached_to = self.get(parent).map_or(Possible::ANY, |parent| parent.propagation);
            one.propagation = one.propagation.attached_to(one.attached_to);
        }
        let place = self.list.len();
        self.by_mount.insert(one.mount, place);
        self.list.push(one);
        &mut self.list[place]
    }

    /// Adds mounts that came with the tree of a template. Which they are is found out by `find_shared`.
    pub(super) fn add_shared(&mut self, shared: &[Expectation]) {
        self.list.extend_from_slice(shared);
    }

    /// Finds out which mounts those of a template are. The first that is not in its place is given back.
    ///
    /// They were attached one after the other, and were copied in that order, so that the ids of the copies grow. With what each
    /// shows that leaves no room for another in its place.
    fn find_shared(
        &mut self,
        root: u64,
        mut at: impl FnMut(&PathBytes) -> Option<FileStatus>,
    ) -> Option<&Expectation> {
        let mut last = root;
        for place in 0..self.list.len() {
            let one = &mut self.list[place];
            if one.mount != Expectation::UNKNOWN {
                continue;
            }
            let found = one.path.as_ref().and_then(&mut at).filter(|found| {
                let shows = Identity { device: found.device, inode: found.inode };
                found.mount > last && one.shows == Some(shows)
            });
            let Some(found) = found else { return self.list.get(place) };
            (one.mount, one.parent) = (found.mount, Some(root));
            last = found.mount;
            self.by_mount.insert(found.mount, place);
        }
        None
    }

    /// All that was attached to the root, for a copy of the tree.
    pub(super) fn into_shared(self) -> Vec<Expectation> {
        let copy = |one| Expectation { mount: Expectation::UNKNOWN, parent: None, ..one };
        self.list.into_iter().skip(1).map(copy).collect()
    }

    /// All is hidden by a new root.
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.by_mount.clear();
    }

    pub(super) fn get(&self, mount: u64) -> Option<&Expectation> {
        self.by_mount.get(&mount).map(|place| &self.list[*place])
    }

    pub(super) fn get_mut(&mut self, mount: u64) -> Option<&mut Expectation> {
        self.by_mount.get(&mount).map(|place| &mut self.list[*place])
    }

    pub(super) fn root_mut(&mut self) -> Option<&mut Expectation> {
        self.list.first_mut()
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Expectation> {
        self.list.last_mut()
    }

    pub(super) fn mounts(&self) -> Vec<u64> {
        self.list.iter().map(|one| one.mount).collect()
    }

    /// The propagation of the root was changed, with that of all below it or not.
    pub(super) fn change_propagation(&mut self, propagation: Propagation) {
        let count = if propagation.recursive { self.list.len() } else { 1 };
        for one in self.list.iter_mut().take(count) {
            one.propagation = one.propagation.changed(&[propagation]);
        }
    }

    /// One was changed with all below it. What is on a mount that was brought along may be one of these.
    pub(super) fn change_below(
        &mut self,
        top: u64,
        attributes: &Attributes,
        propagation: &[Propagation],
        (destination, reaches_covered): (&PathBytes, bool),
    ) {
        let destination = destination.normalized();
        let below = Attributes {
            set: attributes.set_recursive,
            clear: attributes.clear_recursive,
            atime: attributes.atime_recursive,
            ..Attributes::default()
        };
        let propagation: Vec<Propagation> = propagation.iter().copied().filter(|one| one.recursive).collect();
        if below == Attributes::default() && propagation.is_empty() {
            return;
        }
        let on_root = |one: &Expectation| {
            let parent = one.parent.and_then(|id| self.get(id))?;
            (parent.path == one.path).then_some(parent.mount)
        };
        let covered: BTreeSet<u64> =
            if reaches_covered { BTreeSet::new() } else { self.list.iter().filter_map(on_root).collect() };
        let (mut changed, mut unsure) = (BTreeSet::from([top]), BTreeSet::new());
        for place in 0..self.list.len() {
            let (mount, parent) = (self.list[place].mount, self.list[place].parent);
            let Some(parent) = parent.filter(|_| mount != top) else { continue };
            let is_known = self.by_mount.contains_key(&parent);
            let one = &mut self.list[place];
            if changed.contains(&parent) {
                changed.insert(mount);
                one.change(&below, &propagation);
            }
            // By its name it may be below: links can be on the way.
            let by_name = one.path.as_ref().is_none_or(|path| path.starts_with(&destination));
            if !is_known && by_name || unsure.contains(&parent) {
                unsure.insert(mount);
            }
            if unsure.contains(&mount) || covered.contains(&mount) && changed.contains(&mount) {
                one.unsure |= below.mentioned();
                if !propagation.is_empty() {
                    one.propagation = Possible::ANY;
                }
            }
        }
    }

    /// Mounts of ours below one, which are not to be read-only.
    pub(super) fn writable_below(&self, top: u64, destination: &PathBytes) -> Vec<u64> {
        let destination = destination.normalized();
        let below = |one: &Expectation| {
            let mut parent = one.parent;
            while let Some(next) = parent.filter(|id| *id != top).and_then(|id| self.get(id)) {
                parent = next.parent;
            }
            // It may be on a mount that was brought along.
            let by_name = || one.path.as_ref().is_some_and(|path| path.starts_with(&destination));
            parent == Some(top) || by_name()
        };
        let writable = |one: &&Expectation| (one.attributes | one.unsure) & attr::RDONLY == 0;
        self.list
            .iter()
            .filter(writable)
            .filter(|one| one.mount != top && below(one))
            .map(|one| one.mount)
            .collect()
    }

    /// The flags of a mount as they should be now, for a copy of it.
    pub(super) fn original(&mut self, mount: u64) -> Option<Original> {
        self.get_mut(mount).map(|one| {
            one.propagation = one.propagation.copied();
            Original { attributes: one.attributes, unsure: one.unsure, propagation: one.propagation }
        })
    }
}

/// How it came about that there is a mount which is not in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// It came along with the mount of a step.
    Brought(u32),
    /// A hook made it.
    Hook(u32),
    /// It came from a peer or a master of the mount it is on.
    Propagated,
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Copy)]
struct Reason {
    origin: Origin,
    /// The mount of the plan that it is below.
    top: u64,
}

/// One thing that is not as the plan has it.
struct Difference {
    destination: PathBytes,
    wanted: String,
    found: String,
}

impl Execution<'_> {
    /// Makes sure that each mount of a template's tree is where it belongs, before anything else is put into the tree.
    pub(super) fn check_shared(&mut self) -> Result<()> {
        let (kernel, root) = (self.kernel, self.root()?);
        let mut siblings = Siblings::new(kernel, root.as_fd(), Follow::None);
        let at = |path: &PathBytes| {
            siblings.status(path).or_else(|| {
                let file = resolve::resolve(kernel, root.as_fd(), path, Follow::None).ok()?;
                kernel.status(file.as_fd()).ok()
            })
        };
        let missing = self.expectations.find_shared(self.root_mount, at);
        let moved = siblings.moved();
        if missing.is_none() && moved.is_none() {
            return Ok(());
        }
        let mut error = Error::new(ErrorCode::Verify, "the mount that the template has made is not there");
        error.destination = missing.map_or(moved, |missing| missing.path.clone());
        let error = error.with_hint(Hint::ChangedTemplate);
        Err(match missing.and_then(|missing| self.plan.steps.get(missing.step as usize)) {
            Some(step) => Self::locate(error, step),
            None => error,
        })
    }

    /// Runs something that may mount, and remembers what it has mounted in the tree.
    pub(super) fn watching_mounts<T>(
        &mut self,
        step: u32,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let root = self.expectations.list.first().map(|root| root.mount).filter(|_| self.setting.verify);
        let Some(root) = root else { return work(self) };
        let what = || "the mounts of the tree can't be listed";
        let before: BTreeSet<u64> =
            self.kernel.mounts_below(root).context(ErrorCode::Verify, what)?.into_iter().collect();
        let result = work(self)?;
        for mount in self.kernel.mounts_below(root).context(ErrorCode::Verify, what)? {
            if !before.contains(&mount) {
                self.expectations.by_hooks.insert(mount, step);
            }
        }
        Ok(result)
    }

    /// Whether each mount is as it should be at the first look, and there is no other. Names on the host's directories can be
    /// changed by others at any time, and anything by hooks; where neither can be, what a mount is on tells its place.
    fn all_is_as_planned(&self) -> Result<bool> {
        let list = &self.expectations.list;
        let table = self
            .kernel
            .mount_table_of(list.len())
            .context(ErrorCode::Verify, || "the mount table can't be read")?;
        let Some(table) = table.filter(|table| table.is_sorted_by_key(|mount| mount.id)) else {
            return Ok(false);
        };
        let hooks = self.plan.hooks().next().is_some();
        let keeps_place = |one: &Expectation| {
            !hooks && one.parent.and_then(|id| self.expectations.get(id)).is_some_and(|on| on.keeps_places)
        };
        let root = self.root()?;
        let mut siblings = Siblings::new(self.kernel, root.as_fd(), Follow::All);
        let mut leads_to = |path: &PathBytes, mount| match siblings.status(path) {
            Some(found) => found.mount == mount,
            None => self.kernel.mount_at(path) == Ok(mount),
        };
        let mut is_in_place = |one: &Expectation| {
            keeps_place(one) || one.path.as_ref().is_none_or(|path| leads_to(path, one.mount))
        };
        let all_are = list.iter().all(|one| {
            find(&table, one.mount).is_some_and(|found| {
                one.parent.is_none_or(|parent| parent == found.parent)
                    && one.compare(found).is_empty()
                    && is_in_place(one)
            })
        });
        Ok(all_are && siblings.moved().is_none())
    }

    pub(super) fn verify(&mut self) -> Result<()> {
        if self.all_is_as_planned()? {
            return Ok(());
        }
        let mut table = self
            .kernel
            .mount_table(self.expectations.list.len())
            .context(ErrorCode::Verify, || "the mount table can't be read")?;
        if !table.is_sorted_by_key(|mount| mount.id) {
            table.sort_by_key(|mount| mount.id);
        }
        let mut differences = Vec::new();
        for (place, one) in self.expectations.list.iter().enumerate() {
            let mut add = |wanted: &str, found: &str| {
                differences.push(Difference {
                    destination: self.destination_of(one),
                    wanted: wanted.to_owned(),
                    found: found.to_owned(),
                });
            };
            let Some(found) = find(&table, one.mount) else {
                add("a mount", "none");
                continue;
            };
            if !self.is_in_place(place, one, found, &table)? {
                add("it there", &format!("it on {}", found.mountpoint));
            } else if let Some(parent) = one.parent.filter(|parent| *parent != found.parent) {
                add(&format!("it on mount {parent}"), &format!("it on mount {}", found.parent));
            }
            for (wanted, found) in one.compare(found) {
                add(&wanted, &found);
            }
        }
        self.look_at_others(&table, &mut differences);
        if differences.is_empty() { Ok(()) } else { Err(failure(&differences)) }
    }

    fn destination_of(&self, one: &Expectation) -> PathBytes {
        let step = self.plan.steps.get(one.step as usize);
        one.path.clone().or_else(|| step.and_then(|step| step.action.destination())).unwrap_or_default()
    }

    /// Whether a mount is where its path leads.
    fn is_in_place(
        &self,
        place: usize,
        one: &Expectation,
        found: &ListedMount,
        table: &[ListedMount],
    ) -> Result<bool> {
        let Some(path) = one.path.as_ref().filter(|path| **path != found.mountpoint) else { return Ok(true) };
        if path.normalized() == found.mountpoint {
            return Ok(true);
        }
        // There may be symbolic links on the way.
        let root = self.root()?;
        let there = resolve::resolve(self.kernel, root.as_fd(), path, Follow::All)
            .and_then(|file| self.kernel.mount_id(file.as_fd()))
            .ok()
            .and_then(|mount| find(table, mount));
        if there.is_some_and(|there| there.mountpoint == found.mountpoint) {
            return Ok(true);
        }
        // A later mount of the plan may hide it, as a warning has said.
        Ok(one.parent == Some(found.parent)
            && self.expectations.list[place + 1..].iter().any(|later| {
                find(table, later.mount).is_some_and(|later| found.mountpoint.starts_with(&later.mountpoint))
            }))
    }

    /// Mounts that are not in the plan are in order only where there is a reason for them.
    fn look_at_others(&mut self, table: &[ListedMount], differences: &mut Vec<Difference>) {
        let expectations = &self.expectations;
        let others: Vec<&ListedMount> =
            table.iter().filter(|one| !expectations.by_mount.contains_key(&one.id)).collect();
        if others.is_empty() {
            return;
        }
        let mut own = expectations.mounts();
        own.sort_unstable();
        let mut names: BTreeMap<Origin, Vec<&ListedMount>> = BTreeMap::new();
        // From those on mounts of the plan to those on them: a parent doesn't always have the smaller id.
        let mut on: BTreeMap<u64, Vec<&ListedMount>> = BTreeMap::new();
        for one in others {
            on.entry(one.parent).or_default().push(one);
        }
        let tops: Vec<u64> = on.keys().copied().filter(|id| expectations.get(*id).is_some()).collect();
        let mut next: Vec<(u64, Option<Reason>)> = tops.into_iter().map(|id| (id, None)).collect();
        while let Some((parent, of_parent)) = next.pop() {
            for one in on.remove(&parent).unwrap_or_default() {
                let reason = self.reason(one, table, &own, of_parent);
                names.entry(reason.origin).or_default().push(one);
                next.push((one.id, Some(reason)));
            }
        }
        let places = places(expectations, table);
        for (origin, mounts) in names {
            let list = || list_of(mounts.iter().map(|one| &one.mountpoint));
            match origin {
                Origin::Unknown => {
                    for one in mounts {
                        let hidden = hidden_by(one, &places);
                        differences.push(Difference {
                            destination: one.mountpoint.clone(),
                            wanted: "no mount".to_owned(),
                            found: if hidden.is_empty() {
                                "one".to_owned()
                            } else {
                                format!("one that hides {}", list_of(hidden.into_iter()))
                            },
                        });
                    }
                }
                Origin::Brought(step) => {
                    let destination =
                        self.plan.steps.get(step as usize).and_then(|at| at.action.destination());
                    let destination = destination.unwrap_or_default();
                    let message = format!("what is mounted on {destination} brings others along: {}", list());
                    self.warn("extra-mount", step, message);
                }
                Origin::Hook(_) | Origin::Propagated => {
                    let (step, who) = match origin {
                        Origin::Hook(step) => (step, "a hook has mounted on"),
                        _ => (self.plan.steps.last().map_or(0, |step| step.index), "others have mounted on"),
                    };
                    let mut message = format!("{who} {}", list());
                    if origin == Origin::Propagated {
                        message.push_str(" meanwhile");
                    }
                    let hidden: BTreeSet<_> = mounts.iter().flat_map(|one| hidden_by(one, &places)).collect();
                    if !hidden.is_empty() {
                        let _ = write!(message, ", which hides {}", list_of(hidden.into_iter()));
                    }
                    self.warn("extra-mount", step, message);
                }
            }
        }
    }

    fn reason(
        &self,
        one: &ListedMount,
        table: &[ListedMount],
        own: &[u64],
        of_parent: Option<Reason>,
    ) -> Reason {
        let parent = self.expectations.get(one.parent);
        // The mount of the plan that it is on, with others in between or without.
        let top = of_parent.map_or(one.parent, |reason| reason.top);
        let may_bring = match of_parent {
            Some(reason) => matches!(reason.origin, Origin::Brought(_)),
            None => parent.is_some_and(|parent| parent.recursive),
        };
        // A copy is made of what is on top, so nothing of what comes along is on the copy's own root.
        let covers = of_parent.is_none()
            && find(table, one.parent).is_some_and(|parent| parent.mountpoint == one.mountpoint);
        let passes = |state: PropagationState| state.slave || state.shared;
        let origin = if let Some(step) = self.expectations.by_hooks.get(&one.id) {
            Origin::Hook(*step)
        } else if may_bring && !covers && self.came_along(one.id, top, own) {
            Origin::Brought(self.expectations.get(top).map_or(0, |top| top.step))
        } else if find(table, one.parent).is_some_and(|parent| passes(parent.state.propagation)) {
            Origin::Propagated
        } else {
            Origin::Unknown
        };
        Reason { origin, top }
    }

    /// Copies of what is below a mount are made in one go with the copy of that mount: their ids come between its own and
    /// that of the next one.
    fn came_along(&self, mount: u64, parent: u64, own: &[u64]) -> bool {
        if !self.kernel.ids_are_unique() {
            return true;
        }
        let next = own.partition_point(|id| *id <= parent);
        mount > parent && own.get(next).is_none_or(|next| mount < *next)
    }
}

fn find(table: &[ListedMount], id: u64) -> Option<&ListedMount> {
    table.binary_search_by_key(&id, |mount| mount.id).ok().map(|at| &table[at])
}

/// The mounts of the plan by their places.
fn places<'a>(expectations: &Expectations, table: &'a [ListedMount]) -> BTreeSet<&'a PathBytes> {
    expectations.list.iter().filter_map(|one| find(table, one.mount)).map(|found| &found.mountpoint).collect()
}

/// The mounts of the plan that can't be reached because of another.
fn hidden_by<'a>(other: &ListedMount, places: &BTreeSet<&'a PathBytes>) -> Vec<&'a PathBytes> {
    let top = &other.mountpoint;
    let from = (std::ops::Bound::Included(top), std::ops::Bound::Unbounded);
    places
        .range::<PathBytes, _>(from)
        .take_while(|path| path.as_bytes().starts_with(top.as_bytes()))
        .filter(|path| path.starts_with(top))
        .copied()
        .collect()
}

fn list_of<'a>(paths: impl ExactSizeIterator<Item = &'a PathBytes>) -> String {
    let count = paths.len();
    let mut text = paths.take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if count > NAMED {
        let _ = write!(text, " and {} more", count - NAMED);
    }
    text
}

fn failure(differences: &[Difference]) -> Box<Error> {
    let mut message = "the mount table is not what was asked for: ".to_owned();
    for (place, Difference { destination, wanted, found }) in differences.iter().enumerate() {
        let separator = if place == 0 { "" } else { "; " };
        let _ = write!(message, "{separator}{destination}: wanted {wanted}, found {found}");
    }
    let mut error = Error::new(ErrorCode::Verify, message);
    error.destination = differences.first().map(|difference| difference.destination.clone());
    error
}
