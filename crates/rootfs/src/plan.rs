//! The mount state machine: a pure function from a specification to an ordered list of typed steps.
//!
//! Every step belongs to a [`Stage`], and stages only go forward. How a step is carried out (which kernel calls, which
//! strategy) is decided at execution and reported there.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::error::Result;
use crate::options::{Propagation, PropagationType, attr, option_text};
use crate::origin::{Item, Location, Part, locate};
use crate::path::PathBytes;
use crate::process::Capabilities;
use crate::spec::{
    BindSource, Content, Device, DeviceType, Directory, Hook, HookPoint, Mask, MissingMask, Mount, MountKind,
    Namespace, Namespaces, Root, RootfsSpec, Symlink, UserNamespace,
};
use crate::sysctl;

/// How far the root filesystem has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Namespaces are made or joined.
    Namespaces,
    /// The root's tree is opened, or made.
    Root,
    /// Mounts, in the order given.
    Mounts,
    /// Device nodes and the links of /dev.
    Devices,
    /// Hooks that see both the host's tree and the container's.
    Hooks,
    /// The root becomes `/`, and the host's tree goes.
    Pivot,
    /// Read-only mounts, host name, read-only and masked paths.
    Finalize,
    /// The kernel's mount table is compared with the plan.
    Verify,
    /// All is done but the command; `startContainer` hooks.
    Ready,
}

impl Stage {
    /// Every stage, in the order they come.
    pub const ALL: [Self; 9] = [
        Self::Namespaces,
        Self::Root,
        Self::Mounts,
        Self::Devices,
        Self::Hooks,
        Self::Pivot,
        Self::Finalize,
        Self::Verify,
        Self::Ready,
    ];

    /// The name in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Hooks => "hooks",
            Self::Pivot => "pivot",
            Self::Finalize => "finalize",
            Self::Verify => "verify",
            Self::Ready => "ready",
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Make or join namespaces.
    Namespaces(Namespaces),
    /// Open or make the root.
    Root {
        /// What.
        root: Root,
        /// How events pass between it and the host.
        propagation: Propagation,
    },
    /// Mount something.
    Mount {
        /// What, where and how.
        mount: Mount,
        /// Whether read-only comes in a later step, because something is still to be made below.
        readonly_later: bool,
        /// Whether its propagation is set when it is in place: on a shared mount it becomes shared as it is attached.
        propagation_later: bool,
    },
    /// A mount that the tree of a template has already; never in a plan that is shown.
    Shared {
        /// Where, in the root.
        destination: PathBytes,
        /// What its destination was resolved to, where that differs.
        resolved: Option<PathBytes>,
        /// Its source was missing, and optional.
        skipped: bool,
    },
    /// Make a directory.
    Directory(Directory),
    /// Make a symbolic link that was asked for.
    Link(Symlink),
    /// Make a device node.
    Device(Device),
    /// Make a symbolic link of /dev.
    Symlink {
        /// What it says.
        target: PathBytes,
        /// Its own name.
        path: PathBytes,
        /// An existing name is removed first; else it is left.
        replace: bool,
        /// Only where the host has this file.
        only_if_host_has: Option<PathBytes>,
    },
    /// Make an empty file to hide, where nothing is.
    Stub(PathBytes),
    /// Run a program.
    Hook(Hook),
    /// Enter the root.
    Pivot,
    /// Set the propagation of the new root.
    Propagation(Propagation),
    /// Make a mount of an earlier step read-only.
    ReadonlyMount {
        /// The index of that step.
        mount: u32,
        /// Its destination.
        destination: PathBytes,
        /// Whether its superblock too.
        superblock: bool,
        /// Whether mounts below too.
        recursive: bool,
    },
    /// Make the root read-only.
    ReadonlyRoot {
        /// Whether what the root directory brought along too.
        recursive: bool,
    },
    /// Set the host name.
    Hostname(String),
    /// Set the NIS domain name.
    Domainname(String),
    /// Set a kernel parameter.
    Sysctl {
        /// Its name, as it was given.
        name: String,
        /// The same as a path below /proc/sys.
        path: String,
        /// What it is set to.
        value: String,
    },
    /// Make a path read-only.
    ReadonlyPath(PathBytes),
    /// Hide a path.
    Mask(Mask),
    /// Compare the kernel's mount table with the plan.
    Verify,
}

impl Action {
    /// The `type` of the step in JavaScript.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "namespaces",
            Self::Root { .. } => "root",
            Self::Mount { mount: Mount { kind: MountKind::File { .. }, .. }, .. } => "file",
            Self::Mount { .. } | Self::Shared { .. } => "mount",
            Self::Directory(_) => "directory",
            Self::Device(_) => "device",
            Self::Link(_) | Self::Symlink { .. } => "symlink",
            Self::Stub(_) => "stub",
            Self::Hook(_) => "hook",
            Self::Pivot => "pivot",
            Self::Propagation(_) => "propagation",
            Self::ReadonlyMount { .. } | Self::ReadonlyRoot { .. } | Self::ReadonlyPath(_) => "readonly",
            Self::Hostname(_) => "hostname",
            Self::Domainname(_) => "domainname",
            Self::Sysctl { .. } => "sysctl",
            Self::Mask(_) => "mask",
            Self::Verify => "verify",
        }
    }

    /// The stage it belongs to.
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Namespaces(_) => Stage::Namespaces,
            Self::Root { .. } => Stage::Root,
            Self::Mount { .. } | Self::Shared { .. } | Self::Directory(_) | Self::Link(_) => Stage::Mounts,
            Self::Device(_) | Self::Symlink { .. } | Self::Stub(_) => Stage::Devices,
            Self::Hook(hook) => {
                if hook.point.needs_attached_tree() {
                    Stage::Hooks
                } else {
                    Stage::Ready
                }
            }
            Self::Pivot => Stage::Pivot,
            Self::Propagation(_)
            | Self::ReadonlyMount { .. }
            | Self::ReadonlyRoot { .. }
            | Self::Hostname(_)
            | Self::Domainname(_)
            | Self::Sysctl { .. }
            | Self::ReadonlyPath(_)
            | Self::Mask(_) => Stage::Finalize,
            Self::Verify => Stage::Verify,
        }
    }

    /// Where in the root it takes effect.
    pub fn destination(&self) -> Option<PathBytes> {
        match self {
            Self::Mount { mount, .. } => Some(mount.destination.clone()),
            Self::Directory(directory) => Some(directory.path.clone()),
            Self::Device(device) => Some(device.path.clone()),
            Self::Link(Symlink { path, .. })
            | Self::Symlink { path, .. }
            | Self::Stub(path)
            | Self::ReadonlyPath(path) => Some(path.clone()),
            Self::ReadonlyMount { destination, .. } | Self::Shared { destination, .. } => {
                Some(destination.clone())
            }
            Self::ReadonlyRoot { .. } | Self::Propagation(_) | Self::Root { .. } => {
                Some(PathBytes::from("/"))
            }
            Self::Mask(mask) => Some(mask.path.clone()),
            Self::Namespaces(_)
            | Self::Hook(_)
            | Self::Pivot
            | Self::Hostname(_)
            | Self::Domainname(_)
            | Self::Sysctl { .. }
            | Self::Verify => None,
        }
    }

    /// What it is made from.
    pub fn source(&self) -> Option<PathBytes> {
        match self {
            Self::Root { root: Root::Directory(path), .. } => Some(path.clone()),
            Self::Root { root: Root::Empty { .. }, .. } => Some("tmpfs".into()),
            Self::Root { root: Root::Overlay { .. }, .. } => Some("overlay".into()),
            Self::Mount { mount, .. } => match &mount.kind {
                MountKind::Bind { source, .. } => match source {
                    BindSource::Host(path) | BindSource::Fd { path, .. } | BindSource::InRoot(path) => {
                        Some(path.clone())
                    }
                },
                MountKind::Filesystem { fstype, source, .. } => {
                    Some(source.clone().unwrap_or_else(|| fstype.as_str().into()))
                }
                MountKind::Overlay(overlay) => {
                    Some(overlay.source.clone().unwrap_or_else(|| "overlay".into()))
                }
                MountKind::Cgroup { source, .. } => Some(source.clone().unwrap_or_else(|| "cgroup".into())),
                MountKind::File { .. } | MountKind::Remount { .. } => None,
            },
            Self::Link(Symlink { target, .. }) | Self::Symlink { target, .. } => Some(target.clone()),
            Self::Hook(hook) => Some(hook.path.clone()),
            Self::Hostname(name) | Self::Domainname(name) | Self::Sysctl { name, .. } => {
                Some(name.as_str().into())
            }
            _ => None,
        }
    }

    /// Flags and options, as words.
    pub fn flags(&self) -> Vec<String> {
        match self {
            Self::Namespaces(namespaces) => namespace_words(namespaces),
            Self::Root { root, propagation } => {
                let mut words = match root {
                    Root::Directory(_) => vec!["rbind".to_owned()],
                    Root::Empty { size, mode } => {
                        let mut words = vec![format!("mode={mode:o}")];
                        words.extend(size.map(|size| format!("size={size}")));
                        words
                    }
                    Root::Overlay { overlay, size } => {
                        let mut words = overlay.words();
                        words.extend(size.map(|size| format!("size={size}")));
                        words
                    }
                };
                words.push(propagation.name().to_owned());
                words
            }
            Self::Mount { mount, .. } => mount_words(mount),
            Self::Directory(Directory { mode, uid, gid, .. }) => {
                let mut words = Vec::new();
                words.extend(mode.map(|mode| format!("mode={mode:o}")));
                words.extend(uid.map(|uid| format!("uid={uid}")));
                words.extend(gid.map(|gid| format!("gid={gid}")));
                words
            }
            Self::Device(device) => vec![
                match device.kind {
                    DeviceType::Character => format!("c {}:{}", device.major, device.minor),
                    DeviceType::Block => format!("b {}:{}", device.major, device.minor),
                    DeviceType::Fifo => "p".to_owned(),
                },
                format!("mode={:o}", device.mode),
            ],
            Self::Hook(hook) => vec![hook.point.name().to_owned()],
            Self::Propagation(propagation) => vec![propagation.name().to_owned()],
            Self::ReadonlyMount { recursive, .. } | Self::ReadonlyRoot { recursive } => {
                vec![if *recursive { "rro" } else { "ro" }.to_owned()]
            }
            Self::ReadonlyPath(_) => vec!["rro".to_owned()],
            Self::Sysctl { value, .. } => vec![value.clone()],
            Self::Mask(mask) if mask.missing != MissingMask::Skip => {
                vec![format!("missing={}", mask.missing.name())]
            }
            Self::Link(_)
            | Self::Shared { .. }
            | Self::Symlink { .. }
            | Self::Stub(_)
            | Self::Pivot
            | Self::Hostname(_)
            | Self::Domainname(_)
            | Self::Mask(_)
            | Self::Verify => Vec::new(),
        }
    }
}

/// The words of a mount: what it is, its flags, its propagation, its own options.
fn mount_words(mount: &Mount) -> Vec<String> {
    let mut words = Vec::new();
    match &mount.kind {
        MountKind::Bind { recursive, optional, .. } => {
            words.push(if *recursive { "rbind" } else { "bind" }.to_owned());
            if *optional {
                words.push("optional".to_owned());
            }
        }
        MountKind::Filesystem { fstype, copy_up, .. } => {
            words.push(fstype.clone());
            if *copy_up {
                words.push("tmpcopyup".to_owned());
            }
        }
        MountKind::Overlay(overlay) => words.extend(overlay.words()),
        MountKind::File { content, mode, uid, gid } => {
            words.extend([format!("size={}", content.len()), format!("mode={mode:o}")]);
            words.extend((*uid != 0).then(|| format!("uid={uid}")));
            words.extend((*gid != 0).then(|| format!("gid={gid}")));
        }
        MountKind::Remount { bind, .. } => {
            words.push("remount".to_owned());
            words.extend(bind.then(|| "bind".to_owned()));
        }
        MountKind::Cgroup { .. } => {}
    }
    if let Some(id_map) = &mount.id_map {
        words.push(if id_map.recursive { "ridmap" } else { "idmap" }.to_owned());
    }
    words.extend(mount.links.words().map(str::to_owned));
    words.extend(mount.attributes.words().into_iter().map(str::to_owned));
    words.extend(mount.propagation.iter().map(|propagation| propagation.name().to_owned()));
    if let MountKind::Filesystem { superblock, data, .. }
    | MountKind::Cgroup { superblock, data, .. }
    | MountKind::Remount { superblock, data, .. } = &mount.kind
    {
        words.extend(superblock.iter().cloned());
        words.extend(data.iter().map(|(key, value)| option_text(key, value.as_deref())));
    }
    words
}

fn namespace_words(namespaces: &Namespaces) -> Vec<String> {
    let mut words = Vec::new();
    match &namespaces.user {
        UserNamespace::UnlessPrivileged => words.push("user?".to_owned()),
        UserNamespace::None => {}
        UserNamespace::Caller | UserNamespace::Mapped(_) => words.push("user".to_owned()),
        UserNamespace::Path(path) => words.push(format!("user={path}")),
    }
    for (name, namespace) in [
        ("mount", &namespaces.mount),
        ("pid", &namespaces.pid),
        ("ipc", &namespaces.ipc),
        ("uts", &namespaces.uts),
        ("cgroup", &namespaces.cgroup),
        ("network", &namespaces.network),
    ] {
        match namespace {
            Namespace::Inherit => {}
            Namespace::New => words.push(name.to_owned()),
            Namespace::Path(path) => words.push(format!("{name}={path}")),
        }
    }
    words
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the plan.
    pub index: u32,
    /// What it does.
    pub action: Action,
}

/// Something the caller should know before anything happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A short name, such as `hidden-mount`.
    pub code: String,
    /// What it means here.
    pub message: String,
    /// The step it is about.
    pub step: Option<u32>,
    /// What of the specification it is about.
    pub location: Location,
}

/// The ordered steps that make a root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In the order they are carried out.
    pub steps: Vec<Step>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
    /// What hooks are told about the container: name and value.
    pub annotations: Vec<(String, String)>,
    /// The directory of the OCI bundle, for hooks; the root's when there is none.
    pub bundle: Option<PathBytes>,
    /// The SELinux context of the files of new filesystems, where the host has SELinux.
    pub mount_label: Option<String>,
    /// Where the items were said that steps are made from, for warnings of the execution; not sent to it.
    #[serde(skip)]
    pub locations: BTreeMap<u32, Location>,
}

impl Plan {
    /// The index of the namespaces step: it is the first of every plan.
    pub const NAMESPACES: u32 = 0;

    /// Plans a specification, which is validated first. Reads nothing but its argument.
    pub fn new(spec: &RootfsSpec) -> Result<Self> {
        spec.validate()?;
        let mut builder = Builder {
            namespaces: spec.namespaces.clone(),
            steps: Vec::new(),
            warnings: spec.warnings.clone(),
            shared: false,
            locations: BTreeMap::new(),
        };
        builder.plan(spec);
        Ok(Self {
            steps: builder.steps,
            warnings: builder.warnings,
            annotations: spec.annotations.clone(),
            mount_label: spec.mount_label.clone(),
            bundle: spec.bundle.clone(),
            locations: builder.locations,
        })
    }

    /// The mount that a step makes, if it makes one.
    pub fn mount(&self, step: u32) -> Option<&Mount> {
        match &self.steps.get(step as usize)?.action {
            Action::Mount { mount, .. } => Some(mount),
            _ => None,
        }
    }

    /// A warning of the execution, with what of the specification it is about.
    #[must_use]
    pub fn located(&self, warning: &Warning) -> Warning {
        let mut warning = warning.clone();
        if warning.location == Location::default() {
            let location = warning.step.and_then(|step| self.locations.get(&step));
            warning.location = location.cloned().unwrap_or_default();
        }
        warning
    }

    /// Whether a step needs the tree attached while the host's tree is still there.
    pub fn needs_attached_tree(&self) -> bool {
        self.hooks().any(|hook| hook.point.needs_attached_tree())
    }

    /// The step of the first mask.
    pub fn first_mask(&self) -> Option<u32> {
        self.steps.iter().find(|step| matches!(step.action, Action::Mask(_))).map(|step| step.index)
    }

    /// The hooks, in order.
    pub fn hooks(&self) -> impl Iterator<Item = &Hook> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Hook(hook) => Some(hook),
            _ => None,
        })
    }

    /// Whether a step changes a mount that is there already, or puts another in the place of the root. In a detached tree only
    /// the top can be changed, and only all of it can be attached.
    pub fn changes_attached_mounts(&self) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::Mount { mount, propagation_later, .. } => {
                *propagation_later
                    || matches!(mount.kind, MountKind::Remount { .. })
                    || mount.destination.is_top()
            }
            _ => false,
        })
    }

    /// Whether the mount namespace is not the container's own: nothing in it may change, and the root is entered by chroot(2).
    pub fn enters_by_chroot(&self) -> bool {
        self.namespaces().is_some_and(|namespaces| namespaces.mount != Namespace::New)
    }

    /// Whether the propagation of a step's mount is set when it is in place.
    pub fn sets_propagation_later(&self, step: u32) -> bool {
        matches!(
            self.steps.get(step as usize).map(|step| &step.action),
            Some(Action::Mount { propagation_later: true, .. })
        )
    }

    /// The hooks of a point, in order.
    pub fn hooks_at(&self, point: HookPoint) -> impl Iterator<Item = &Hook> {
        self.hooks().filter(move |hook| hook.point == point)
    }

    /// The namespaces step.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        self.steps.iter().find_map(|step| match &step.action {
            Action::Namespaces(namespaces) => Some(namespaces),
            _ => None,
        })
    }

    /// Whether a mount is of a new filesystem that no mount outside of the container shares.
    pub fn has_own_superblock(&self, kind: &MountKind) -> bool {
        self.namespaces().is_some_and(|namespaces| has_own_superblock(kind, namespaces))
    }

    /// The root step.
    pub fn root(&self) -> Option<&Root> {
        self.steps.iter().find_map(|step| match &step.action {
            Action::Root { root, .. } => Some(root),
            _ => None,
        })
    }
}

/// What has to be said about a process in a root with masks: one that may mount may also unmount them.
pub fn mask_warning(first_mask: Option<u32>, capabilities: &Capabilities) -> Option<Warning> {
    let step = first_mask.filter(|_| capabilities.keeps("SYS_ADMIN"))?;
    Some(Warning {
        code: "mask-removable".to_owned(),
        message: "the process keeps CAP_SYS_ADMIN, so it can unmount what hides masked paths".to_owned(),
        step: Some(step),
        location: Location::default(),
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |path: Option<PathBytes>| path.map(|path| path.to_string()).unwrap_or_default();
        let rows: Vec<[String; 5]> = self
            .steps
            .iter()
            .map(|step| {
                [
                    step.index.to_string(),
                    step.action.name().to_owned(),
                    lossy(step.action.destination()),
                    lossy(step.action.source()),
                    step.action.flags().join(","),
                ]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        for row in &rows {
            let mut line = format!("{:>1$}", row[0], widths[0]);
            for column in 1..4 {
                write!(line, "  {:<1$}", row[column], widths[column])?;
            }
            line.push_str("  ");
            line.push_str(&row[4]);
            writeln!(f, "{}", line.trim_end())?;
        }
        if let Some(label) = &self.mount_label {
            writeln!(f, "label of new filesystems: {label}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}", warning.message)?;
        }
        Ok(())
    }
}

/// Whether a mount has a superblock that no mount outside of the container shares. Where they do, only the mount is made
/// read-only.
fn has_own_superblock(kind: &MountKind, namespaces: &Namespaces) -> bool {
    let MountKind::Filesystem { fstype, bind_fallback, .. } = kind else { return false };
    match &**fstype {
        "sysfs" | "mqueue" | "cgroup" | "cgroup2" => false,
        // Before Linux 5.8 all mounts of it in one pid namespace share it.
        "proc" => namespaces.pid == Namespace::New && !bind_fallback,
        _ => true,
    }
}

struct Builder {
    namespaces: Namespaces,
    steps: Vec<Step>,
    warnings: Vec<Warning>,
    /// Whether a mount is shared already, so that one that is put on it becomes shared too.
    shared: bool,
    locations: BTreeMap<u32, Location>,
}

impl Builder {
    fn push(&mut self, action: Action) -> u32 {
        debug_assert!(
            self.steps.last().is_none_or(|last| last.action.stage() <= action.stage()),
            "stages only go forward"
        );
        let index = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.steps.push(Step { index, action });
        index
    }

    fn warn(&mut self, code: &str, step: u32, location: Location, message: String) {
        self.warnings.push(Warning { code: code.to_owned(), message, step: Some(step), location });
    }

    fn plan(&mut self, spec: &RootfsSpec) {
        let propagation = spec.propagation.unwrap_or(Propagation::RSLAVE);
        self.push(Action::Namespaces(spec.namespaces.clone()));
        self.push(Action::Root { root: spec.root.clone(), propagation });
        if spec.namespaces.mount != Namespace::New {
            let message = "without a mount namespace of the container's own its root is entered by chroot(2), which a \
                           process with CAP_SYS_CHROOT can leave";
            let location = locate(&spec.origins, Item::Namespaces, &Part::Whole);
            self.warn("no-mount-namespace", Plan::NAMESPACES, location, message.to_owned());
        }
        let readonly_later = self.plan_content(spec);
        self.plan_devices(spec);
        let masks = planned_masks(&spec.masks);
        for mask in masks.iter().filter(|mask| mask.missing == MissingMask::Stub) {
            self.push(Action::Stub(mask.path.clone()));
        }
        self.plan_hooks(spec, super::spec::HookPoint::needs_attached_tree);
        self.push(Action::Pivot);
        if matches!(propagation.kind, PropagationType::Shared | PropagationType::Unbindable) {
            self.push(Action::Propagation(propagation));
        }
        for action in self.in_order(readonly_later) {
            self.push(action);
        }
        if let Some(readonly) = spec.readonly {
            self.push(Action::ReadonlyRoot { recursive: readonly.recursive });
        }
        if let Some(hostname) = &spec.hostname {
            self.push(Action::Hostname(hostname.clone()));
        }
        if let Some(domainname) = &spec.domainname {
            self.push(Action::Domainname(domainname.clone()));
        }
        self.plan_sysctl(spec);
        for path in unique(&spec.readonly_paths, |path| path) {
            self.push(Action::ReadonlyPath(path.clone()));
        }
        for mask in masks {
            let path = mask.path.clone();
            let index = self.push(Action::Mask(mask));
            let place = path.normalized();
            let same = |mask: &Mask| mask.path.normalized() == place;
            let item = Item::Mask(spec.masks.iter().position(same).unwrap_or_default());
            let location = locate(&spec.origins, item, &Part::Whole);
            self.locations.insert(index, location.clone());
            self.warn_if_relative(&path, index, location);
        }
        self.push(Action::Verify);
        self.plan_hooks(spec, |point| !point.needs_attached_tree());
    }

    /// In a tree that is never attached, what is read-only is a copy of what was below it: that has to be done before.
    fn in_order(&self, mut readonly_later: Vec<Action>) -> Vec<Action> {
        if self.namespaces.mount != Namespace::New {
            readonly_later.reverse();
        }
        readonly_later
    }

    /// Plans what is put into the tree, and returns the steps that make some mounts read-only at the end.
    fn plan_content(&mut self, spec: &RootfsSpec) -> Vec<Action> {
        let devices = planned_devices(spec);
        let places = Places::new(
            spec.content.iter().map(Content::destination).chain(devices.iter().map(|device| &device.path)),
        );
        let mut later = Vec::new();
        for (position, item) in spec.content.iter().enumerate() {
            let index = match item {
                Content::Mount(mount) => {
                    if !is_remount(item) && mount.destination.is_top() {
                        // What was made before is not there any more.
                        later.clear();
                    }
                    later.extend(self.plan_mount(mount, position, &places, spec));
                    continue;
                }
                Content::Directory(directory) => self.push(Action::Directory(directory.clone())),
                Content::Symlink(symlink) => self.push(Action::Link(symlink.clone())),
            };
            let field = if matches!(item, Content::Symlink(_)) { "path" } else { "destination" };
            let location = locate(&spec.origins, Item::Content(position), &Part::Field(field));
            self.warn_if_relative(item.destination(), index, location);
        }
        later
    }

    /// Plans a mount, and returns the step that makes it read-only at the end, if that is to be later.
    fn plan_mount(
        &mut self,
        mount: &Mount,
        position: usize,
        places: &Places,
        spec: &RootfsSpec,
    ) -> Option<Action> {
        let content = &spec.content;
        let destination = mount.destination.normalized();
        let needs_a_mountpoint = |at: usize| at > position && !content.get(at).is_some_and(is_remount);
        let later = places.at_or_below(&destination).find(|(_, other)| needs_a_mountpoint(*other));
        let below = later.is_some();
        let (deferrable, superblock) = match &mount.kind {
            MountKind::Filesystem { fstype, .. } => {
                let own = has_own_superblock(&mount.kind, &self.namespaces);
                (fstype == "tmpfs" || (below && own), own)
            }
            MountKind::Bind { .. } => (below, false),
            MountKind::Overlay(_) => (below, true),
            MountKind::Remount { bind, .. } => (below, !bind),
            MountKind::Cgroup { .. } | MountKind::File { .. } => (false, false),
        };
        let readonly_later = mount.attributes.readonly() && deferrable;
        let words = &mount.propagation;
        let propagation_later = self.shared
            && !matches!(mount.kind, MountKind::Remount { .. })
            && words.iter().enumerate().any(|(at, word)| {
                let last = at + 1 == words.len();
                word.kind != PropagationType::Shared && (last || word.recursive)
            });
        self.shared |= words.iter().any(|word| word.kind == PropagationType::Shared);
        let index = self.push(Action::Mount { mount: mount.clone(), readonly_later, propagation_later });
        let at = |part: &Part| locate(&spec.origins, Item::Content(position), part);
        self.locations.insert(index, at(&Part::Whole));
        self.warn_about_mount(mount, index, &destination, &at);
        if let (
            MountKind::Bind {
                source: BindSource::Host(source) | BindSource::Fd { path: source, .. }, ..
            },
            Some((inner, _)),
        ) = (&mount.kind, later)
            && readonly_later
        {
            self.warn(
                "writes-to-source",
                index,
                at(&Part::Field("source")),
                format!(
                    "what {inner} needs and {source} lacks is made in {source}, before it becomes read-only"
                ),
            );
        }
        let hides = !matches!(mount.kind, MountKind::Remount { .. });
        for (other, earlier) in places.at_or_below(&destination).filter(|_| hides) {
            let what = match content.get(earlier).filter(|_| earlier < position) {
                None => continue,
                Some(remount) if is_remount(remount) => continue,
                Some(Content::Mount(_)) => "mount on",
                // It is what the mount is put on.
                Some(Content::Directory(_) | Content::Symlink(_)) if *other == destination => continue,
                Some(Content::Directory(_)) => "directory",
                Some(Content::Symlink(_)) => "link",
            };
            if *other == destination {
                let message = format!("{destination} is mounted more than once");
                self.warn("same-destination", index, at(&Part::Field("destination")), message);
            } else {
                let message = format!("{destination} hides the earlier {what} {other}");
                self.warn("hidden-mount", index, at(&Part::Field("destination")), message);
            }
        }
        readonly_later.then(|| Action::ReadonlyMount {
            mount: index,
            destination: mount.destination.clone(),
            superblock,
            recursive: mount.attributes.set_recursive & attr::RDONLY != 0
                && matches!(mount.kind, MountKind::Bind { .. } | MountKind::Remount { .. }),
        })
    }

    fn warn_if_relative(&mut self, path: &PathBytes, index: u32, location: Location) {
        if !path.is_absolute() {
            let message = format!("{path} is not absolute and is taken from /");
            self.warn("relative-destination", index, location, message);
        }
    }

    fn plan_sysctl(&mut self, spec: &RootfsSpec) {
        // The last value of a name wins, however the name is written.
        let mut wanted: Vec<(&str, String, &str)> = Vec::new();
        for (name, value) in &spec.sysctl {
            // A name that can't be a path was refused before.
            let Ok(path) = sysctl::path_of(name) else { continue };
            wanted.retain(|(_, other, _)| *other != path);
            wanted.push((name, path, value));
        }
        for (name, path, value) in wanted {
            self.push(Action::Sysctl { name: name.to_owned(), path, value: value.to_owned() });
        }
    }

    fn warn_about_mount(
        &mut self,
        mount: &Mount,
        index: u32,
        destination: &PathBytes,
        at: &dyn Fn(&Part) -> Location,
    ) {
        self.warn_if_relative(&mount.destination, index, at(&Part::Field("destination")));
        for word in &mount.ineffective {
            self.warn(
                "unknown-bind-option",
                index,
                at(&Part::Option(word.clone())),
                format!("\"{word}\" has no effect on the mount on {destination}"),
            );
        }
        for word in mount.unknown_options() {
            let message =
                format!("\"{word}\" is unknown here, and given to the filesystem on {destination} as it is");
            self.warn("unknown-option", index, at(&Part::Option(word)), message);
        }
        if let MountKind::Bind { source: BindSource::Host(source), .. } = &mount.kind {
            let flags = mount.attributes.set | mount.attributes.set_recursive;
            if flags & attr::NODEV != 0 && source.normalized().starts_with(&"/dev".into()) {
                let word = if mount.attributes.set & attr::NODEV != 0 { "nodev" } else { "rnodev" };
                self.warn(
                    "nodev-device",
                    index,
                    at(&Part::Option(word.to_owned())),
                    format!("{source} is bound with nodev: device nodes in it can't be opened"),
                );
            }
        }
    }

    fn plan_devices(&mut self, spec: &RootfsSpec) {
        for device in planned_devices(spec) {
            let path = device.path.clone();
            let usual = spec.dev && !spec.devices.contains(&device);
            let is_fifo = device.kind == DeviceType::Fifo;
            let place = spec.devices.iter().position(|other| *other == device);
            let index = self.push(Action::Device(device));
            if usual {
                continue;
            }
            let item = Item::Device(place.unwrap_or_default());
            let location = locate(&spec.origins, item, &Part::Field("path"));
            self.locations.insert(index, location.clone());
            self.warn_if_relative(&path, index, location.clone());
            if !is_fifo && is_below_nodev(spec, &path.normalized()) {
                let message =
                    format!("{path} is on a mount with nodev: where it is made as a node it can't be opened");
                self.warn("nodev-device", index, location, message);
            }
        }
        if !spec.dev {
            return;
        }
        let link = |path: &str, target: &str, replace| Action::Symlink {
            target: target.into(),
            path: path.into(),
            replace,
            only_if_host_has: None,
        };
        for (path, target) in defaults::DEV_LINKS {
            self.push(link(path, target, false));
        }
        let (path, target) = defaults::CORE_LINK;
        self.push(Action::Symlink {
            target: target.into(),
            path: path.into(),
            replace: false,
            only_if_host_has: Some(target.into()),
        });
        let index = self.push(link("/dev/ptmx", "pts/ptmx", true));
        let ptmx = |device: &Device| device.path.normalized() == PathBytes::from("/dev/ptmx");
        if let Some(place) = spec.devices.iter().position(ptmx) {
            let location = locate(&spec.origins, Item::Device(place), &Part::Field("path"));
            let message = "the device /dev/ptmx is not made: the container's own is the link to pts/ptmx";
            self.warn("ignored-device", index, location, message.to_owned());
        }
    }

    fn plan_hooks(&mut self, spec: &RootfsSpec, wanted: impl Fn(HookPoint) -> bool) {
        for point in HookPoint::ALL.into_iter().filter(|point| wanted(*point)) {
            for hook in spec.hooks.iter().filter(|hook| hook.point == point) {
                self.push(Action::Hook(hook.clone()));
            }
        }
    }
}

fn is_remount(content: &Content) -> bool {
    matches!(content, Content::Mount(Mount { kind: MountKind::Remount { .. }, .. }))
}

/// Destinations by their paths, so that what lies below one is found without looking at all of them.
struct Places(BTreeMap<PathBytes, Vec<usize>>);

impl Places {
    /// The positions are those in the order given.
    fn new<'a>(paths: impl Iterator<Item = &'a PathBytes>) -> Self {
        let mut places = BTreeMap::<_, Vec<_>>::new();
        for (position, path) in paths.enumerate() {
            places.entry(path.normalized()).or_default().push(position);
        }
        Self(places)
    }

    /// The paths that are this one or below it, with their positions.
    fn at_or_below(&self, top: &PathBytes) -> impl Iterator<Item = (&PathBytes, usize)> {
        // Names below sort between the path with a slash and that with the byte that comes after a slash.
        let from = if top.as_bytes() == b"/" {
            top.clone()
        } else {
            PathBytes::new([top.as_bytes(), b"/"].concat())
        };
        let below = self
            .0
            .range(from.clone()..)
            .take_while(move |(path, _)| path.as_bytes().starts_with(from.as_bytes()));
        let at = self.0.get_key_value(top).filter(|_| top.as_bytes() != b"/");
        at.into_iter().chain(below).flat_map(|(path, positions)| positions.iter().map(move |at| (path, *at)))
    }
}

/// Whether the mount that a path is on, as far as the specification says, has nodev.
fn is_below_nodev(spec: &RootfsSpec, path: &PathBytes) -> bool {
    let mounts = spec.content.iter().filter_map(|item| match item {
        Content::Mount(mount) if path.starts_with(&mount.destination.normalized()) => Some(mount),
        _ => None,
    });
    // Of several on one place, the last one is on top.
    let nearest = mounts.max_by_key(|mount| mount.destination.normalized().components().count());
    nearest.is_some_and(|mount| (mount.attributes.set | mount.attributes.set_recursive) & attr::NODEV != 0)
}

/// The usual nodes, then the others. `/dev/ptmx` is always the link to the container's own terminals.
fn planned_devices(spec: &RootfsSpec) -> Vec<Device> {
    let mut devices = if spec.dev { defaults::devices() } else { Vec::new() };
    for device in &spec.devices {
        let path = device.path.normalized();
        if spec.dev && path == PathBytes::from("/dev/ptmx") {
            continue;
        }
        devices.retain(|usual| usual.path != path);
        devices.push(device.clone());
    }
    devices
}

/// Each path once, those first that need nothing else. What is said last about a missing one counts, unless that is nothing.
fn planned_masks(masks: &[Mask]) -> Vec<Mask> {
    let mut planned: Vec<Mask> = Vec::with_capacity(masks.len());
    let mut places = BTreeMap::new();
    for mask in masks {
        let place = *places.entry(mask.path.normalized()).or_insert(planned.len());
        match planned.get_mut(place) {
            Some(known) if mask.missing != MissingMask::Skip => known.missing = mask.missing,
            Some(_) => {}
            None => planned.push(mask.clone()),
        }
    }
    // The others cover directories with copies of themselves, through which less is known about what lies where.
    planned.sort_by_key(|mask| !matches!(mask.missing, MissingMask::Skip | MissingMask::Error));
    planned
}

fn unique<T>(items: &[T], path: impl Fn(&T) -> &PathBytes) -> Vec<&T> {
    let mut seen = std::collections::BTreeSet::new();
    items.iter().filter(|item| seen.insert(path(item).normalized())).collect()
}

#[cfg(test)]
mod content_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MissingMask;
    use proptest::prelude::*;

    pub(super) fn default_spec() -> RootfsSpec {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.add(defaults::proc());
        spec.extend(defaults::dev(defaults::DEV_SIZE, false));
        spec.add(defaults::sysfs(true));
        spec.add(defaults::cgroup(true));
        spec.dev = true;
        spec.readonly_paths = defaults::READONLY_PATHS.map(PathBytes::from).to_vec();
        spec.masks = defaults::MASKED_PATHS
            .map(|path| Mask { path: path.into(), missing: MissingMask::Skip })
            .to_vec();
        spec
    }

    #[test]
    fn the_same_specification_gives_the_same_plan() {
        assert_eq!(Plan::new(&default_spec()).unwrap(), Plan::new(&default_spec()).unwrap());
    }

    #[test]
    fn a_read_only_tmpfs_becomes_read_only_after_everything_below_it() {
        let mut spec = default_spec();
        spec.content.insert(0, defaults::filesystem("/data", "tmpfs", attr::RDONLY, &[]).into());
        spec.add(defaults::filesystem("/data/below", "tmpfs", 0, &[]));
        let plan = Plan::new(&spec).unwrap();
        let readonly =
            plan.steps.iter().position(|step| matches!(step.action, Action::ReadonlyMount { .. })).unwrap();
        let below = plan
            .steps
            .iter()
            .position(|step| step.action.destination() == Some("/data/below".into()))
            .unwrap();
        assert!(below < readonly);
    }

    #[test]
    fn a_mask_that_is_not_absolute_is_warned_about() {
        let mut spec = RootfsSpec::new(Root::Directory("/srv/root".into()));
        spec.masks.push(Mask { path: "proc/kcore".into(), missing: MissingMask::Skip });
        let plan = Plan::new(&spec).unwrap();
        let mask = plan.steps.iter().find(|step| matches!(step.action, Action::Mask(_))).unwrap();
        let warning = plan.warnings.iter().find(|warning| warning.code == "relative-destination").unwrap();
        assert_eq!(warning.step, Some(mask.index));
    }

    #[test]
    fn masks_and_read_only_paths_are_applied_once() {
        let mut spec = default_spec();
        let before = Plan::new(&spec).unwrap().steps.len();
        spec.masks.push(Mask { path: "/proc/./kcore".into(), missing: MissingMask::Skip });
        spec.readonly_paths.push("/proc/sys".into());
        assert_eq!(Plan::new(&spec).unwrap().steps.len(), before);
    }

    #[test]
    fn a_mount_that_hides_another_is_a_warning() {
        let mut spec = default_spec();
        spec.add(defaults::filesystem("/dev", "tmpfs", 0, &[]));
        let codes: Vec<_> =
            Plan::new(&spec).unwrap().warnings.into_iter().map(|warning| warning.code).collect();
        assert!(codes.contains(&"hidden-mount".to_owned()) && codes.contains(&"same-destination".to_owned()));
    }

    #[test]
    fn hooks_that_need_the_tree_come_before_the_root_is_entered() {
        let mut spec = default_spec();
        for point in [HookPoint::StartContainer, HookPoint::CreateContainer, HookPoint::Prestart] {
            spec.hooks.push(Hook {
                point,
                path: "/bin/true".into(),
                args: vec![],
                env: vec![],
                timeout: None,
                function: None,
            });
        }
        let plan = Plan::new(&spec).unwrap();
        assert!(plan.needs_attached_tree());
        let order: Vec<_> = plan
            .steps
            .iter()
            .filter(|s| matches!(s.action, Action::Hook(_) | Action::Pivot))
            .map(|s| s.action.flags())
            .collect();
        let words: Vec<Vec<&str>> = order.iter().map(|w| w.iter().map(String::as_str).collect()).collect();
        assert_eq!(words, [vec!["prestart"], vec!["createContainer"], vec![], vec!["startContainer"]]);
    }

    proptest! {
        #[test]
        fn stages_only_go_forward(
            destinations in proptest::collection::vec("(/[a-c]){1,3}", 0..12),
            readonly in any::<bool>(),
            dev in any::<bool>(),
            hooks in proptest::collection::vec(0_usize..6, 0..4),
        ) {
            let mut spec = RootfsSpec::new(Root::Empty { size: None, mode: 0o755 });
            for destination in &destinations {
                let flags = if readonly { attr::RDONLY } else { 0 };
                spec.add(defaults::filesystem(destination, "tmpfs", flags, &[]));
            }
            spec.dev = dev;
            for hook in hooks {
                spec.hooks.push(Hook { point: HookPoint::ALL[hook], path: "/h".into(), args: vec![], env: vec![], timeout: None, function: None });
            }
            let plan = Plan::new(&spec).unwrap();
            for pair in plan.steps.windows(2) {
                prop_assert!(pair[0].action.stage() <= pair[1].action.stage());
                prop_assert_eq!(pair[0].index + 1, pair[1].index);
            }
        }
    }
}

#[cfg(test)]
mod remount_tests;
