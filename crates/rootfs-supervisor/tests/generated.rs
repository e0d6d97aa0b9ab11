//! Generated specifications on the real kernel, in every cell and at every level: each is carried out or refused with a reason,
//! no process panics or is killed on the way, and nothing is left on the host.
//!
//! These tests need root, and the Debian packages busybox-static and util-linux.
#![allow(clippy::disallowed_methods, reason = "tests make and read their own files")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "support/asked.rs"]
mod asked;
mod support;

use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rootfs::ErrorCode;
use rootfs::content::{Directory, FileContent, Symlink};
use rootfs::execute::Level;
use rootfs::options::{self, Attributes, Links, Propagation};
use rootfs::overlay::{Overlay, Upper};
use rootfs::path::PathBytes;
use rootfs::plan::Plan;
use rootfs::protocol::Exit;
use rootfs::spec::{
    Content, Device, DeviceType, Hook, HookPoint, IdMap, IdMapping, Mask, MissingMask, Mount, MountKind,
    Namespace, Namespaces, ReadonlyRoot, Root, RootfsSpec, mount_from_oci,
};
use support::{Cell, Supervisor, busybox_root, default_spec, host_mounts, listing, shell};

/// Where images and sources are, in the mount namespace of each supervisor.
const HERE: &str = "/mnt";

/// A destination in the image, which has links that dangle, loop, and lead out.
fn destination() -> impl Strategy<Value = String> {
    place_of(0)
}

/// One of at least so many names.
fn place_of(least: usize) -> impl Strategy<Value = String> {
    let name = select(vec![
        "a", "b", "bin", "etc", "file", "absolute", "dangling", "loop", "out", "..", "new", "proc", "dev",
    ]);
    vec(name, least..4).prop_map(|names| format!("/{}", names.join("/")))
}

fn source() -> impl Strategy<Value = String> {
    let of_host = select(vec!["", "/directory", "/directory/below", "/file", "/fifo", "/link", "/missing"])
        .prop_map(|name| format!("{HERE}/source{name}"));
    prop_oneof![4 => of_host, 1 => destination()]
}

fn oci_mount() -> impl Strategy<Value = Content> {
    let known: Vec<String> = options::WORDS
        .iter()
        .map(|word| word.name)
        .filter(|name| options::parse(&[name]).is_ok())
        .chain(["size=64k", "mode=700", "newinstance", "nosuch=1", "hidepid=2"])
        .map(str::to_owned)
        .collect();
    let fstype = select(vec!["tmpfs", "proc", "sysfs", "mqueue", "devpts", "bind", "nosuch"]);
    let map = (select(vec![0_u32, 1000]), 1_u32..10).prop_map(|(host_id, size)| {
        let line = vec![IdMapping { container_id: 0, host_id, size }];
        IdMap { uids: line.clone(), gids: line }
    });
    (
        destination(),
        option::of(source()),
        option::of(fstype),
        vec(select(known), 0..4),
        option::weighted(0.1, map),
    )
        .prop_filter_map("words can contradict the type", |(destination, source, fstype, words, map)| {
            let source = source.map(|source| source.as_str().into());
            mount_from_oci(destination.as_str().into(), source, fstype, &words, map).ok().map(Content::from)
        })
}

fn overlay() -> impl Strategy<Value = Overlay> {
    let lower = select(vec!["/source/directory", "/source", "/root", "/source/missing"]);
    (vec(lower, 1..3), any::<bool>()).prop_map(|(lower, upper)| Overlay {
        lower: lower.into_iter().map(|name| format!("{HERE}{name}").as_str().into()).collect(),
        upper: upper.then(|| Upper {
            directory: format!("{HERE}/written/upper").as_str().into(),
            work: format!("{HERE}/written/work").as_str().into(),
        }),
        ..Overlay::default()
    })
}

fn plain(destination: &str, kind: MountKind) -> Content {
    Content::from(Mount {
        destination: destination.into(),
        kind,
        attributes: Attributes::default(),
        propagation: vec![],
        id_map: None,
        ineffective: vec![],
        links: Links::default(),
    })
}

fn mounts() -> impl Strategy<Value = Vec<Content>> {
    let file = (destination(), "[a-z]{0,9}").prop_map(|(at, text)| {
        let content = FileContent::new(text.into_bytes());
        plain(&at, MountKind::File { content, mode: 0o640, uid: 0, gid: 0 })
    });
    let layers = (destination(), overlay()).prop_map(|(at, overlay)| plain(&at, MountKind::Overlay(overlay)));
    vec(prop_oneof![6 => oci_mount(), 1 => file, 1 => layers], 0..5)
}

/// What is no mountpoint, and stays.
fn lasting() -> impl Strategy<Value = (Vec<Content>, Vec<Device>)> {
    let directory = (destination(), option::of(0_u32..0o10000)).prop_map(|(path, mode)| {
        Content::from(Directory { path: path.as_str().into(), mode, uid: None, gid: None })
    });
    let link = (destination(), destination()).prop_map(|(target, path)| {
        Content::from(Symlink { target: target.as_str().into(), path: path.as_str().into() })
    });
    let kind = select(vec![DeviceType::Character, DeviceType::Block, DeviceType::Fifo]);
    let device = (destination(), kind, 0_u32..3, 0_u32..4).prop_map(|(path, kind, major, minor)| {
        let (major, minor) = if kind == DeviceType::Fifo { (0, 0) } else { (major, minor) };
        Device { path: path.as_str().into(), kind, major, minor, mode: 0o644, uid: 0, gid: 0 }
    });
    (vec(prop_oneof![directory, link], 0..3), vec(device, 0..2))
}

fn hook() -> impl Strategy<Value = Hook> {
    let points = HookPoint::ALL[..4].to_vec();
    (select(points), select(vec!["/bin/true", "/bin/false", "/nosuch"])).prop_map(|(point, path)| Hook {
        point,
        path: path.into(),
        args: vec![],
        env: vec![],
        timeout: Some(20),
        function: None,
    })
}

/// Where a path leads that has no links, or further up.
fn lexical(path: &PathBytes) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in path.components() {
        if name == b".." {
            names.pop();
        } else {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    format!("/{}", names.join("/"))
}

/// Whether something of the host's can be written to through it.
fn shows_host(content: &Content) -> bool {
    match content {
        Content::Mount(mount) => match &mount.kind {
            MountKind::Bind { .. } => true,
            MountKind::Overlay(overlay) => overlay.upper.is_some(),
            _ => false,
        },
        Content::Directory(_) | Content::Symlink(_) => false,
    }
}

fn specification() -> impl Strategy<Value = RootfsSpec> {
    let root = prop_oneof![
        4 => Just(Root::Directory(format!("{HERE}/root").as_str().into())),
        1 => Just(Root::Empty { size: Some(1 << 20), mode: 0o711 }),
        1 => overlay().prop_map(|overlay| Root::Overlay { overlay, size: None }),
    ];
    let propagation = option::of(select(
        ["private", "rshared", "slave", "shared", "runbindable"]
            .map(|name| Propagation::from_name(name).unwrap())
            .to_vec(),
    ));
    let missing = select(MissingMask::ALL.map(|(_, missing)| missing).to_vec());
    let mask =
        (place_of(1), missing).prop_map(|(path, missing)| Mask { path: path.as_str().into(), missing });
    let paths = vec(place_of(1).prop_map(|path| PathBytes::from(path.as_str())), 0..2);
    let usual = any::<bool>();
    let readonly = option::of(any::<bool>().prop_map(|recursive| ReadonlyRoot { recursive }));
    (root, propagation, usual, readonly, mounts(), lasting(), (vec(mask, 0..3), paths), vec(hook(), 0..2))
        .prop_map(|(root, propagation, usual, readonly, mounts, lasting, (masks, readonly_paths), hooks)| {
            let mut spec = RootfsSpec::new(root);
            if usual {
                let usual = default_spec(Path::new("/"));
                (spec.content, spec.dev, spec.hostname) = (usual.content, usual.dev, usual.hostname);
            }
            // What is asked for itself stays where it is made, so that has to be nothing of the host's.
            let private = match &spec.root {
                Root::Directory(_) => false,
                Root::Empty { .. } => true,
                Root::Overlay { overlay, .. } => overlay.upper.is_none(),
            };
            let copies_link =
                |content: &Content| matches!(content, Content::Mount(mount) if mount.links.copy);
            let copied = mounts.iter().any(copies_link);
            let has_lasting = private && (copied || !(lasting.0.is_empty() && lasting.1.is_empty()));
            let keep = |mount: &Content| {
                let covers_devices = usual && ["/", "/dev"].contains(&&*lexical(mount.destination()));
                let lasts = !private && copies_link(mount);
                !(covers_devices || lasts || has_lasting && shows_host(mount) && !copies_link(mount))
            };
            let mounts: Vec<Content> = mounts.into_iter().filter(keep).collect();
            if has_lasting {
                spec.extend(lasting.0);
                spec.devices = lasting.1;
            }
            spec.extend(mounts);
            RootfsSpec { propagation, readonly, masks, readonly_paths, hooks, ..spec }
        })
}

/// An image with odd names, and a directory of sources, all owned by the container's root.
fn fill(directory: &Path, cell: Cell) {
    let root = busybox_root(directory, cell, false);
    let owner = Some(cell.owner());
    for (target, name) in
        [("/a", "absolute"), ("nowhere/x", "dangling"), ("loop", "loop"), ("../../../../tmp", "out")]
    {
        symlink(target, root.join(name)).unwrap();
    }
    let source = directory.join("source");
    let written = directory.join("written");
    for made in
        [&root.join("a"), &source, &source.join("directory"), &source.join("directory/below"), &written]
    {
        std::fs::create_dir(made).unwrap();
        chown(made, owner, owner).unwrap();
    }
    for name in ["upper", "work"] {
        std::fs::create_dir(written.join(name)).unwrap();
        chown(written.join(name), owner, owner).unwrap();
    }
    for made in [&root.join("file"), &source.join("file")] {
        std::fs::write(made, "as it was\n").unwrap();
        chown(made, owner, owner).unwrap();
    }
    symlink("directory", source.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
}

/// Without what the kernel itself makes in the work directory of an overlay, and copies to the upper one.
fn content(directory: &Path) -> Vec<String> {
    listing(directory).into_iter().filter(|line| !line.contains("/written/")).collect()
}

fn carry_out(
    spec: &RootfsSpec,
    cell: Cell,
    level: Option<Level>,
) -> Result<Option<ErrorCode>, TestCaseError> {
    let Ok(plan) = Plan::new(spec) else { return Ok(Some(ErrorCode::Spec)) };
    let host = host_mounts();
    let mut supervisor = Supervisor::start_isolated(cell, Path::new(HERE));
    let directory = supervisor.path(Path::new(HERE));
    fill(&directory, cell);
    let before = (supervisor.mounts(), content(&directory));
    let running = supervisor
        .begin(cell, spec, Some(shell("true")), level)
        .map_err(|error| TestCaseError::fail(format!("refused by the supervisor: {error:?}")))?;
    let ended = supervisor.finish(&running);
    prop_assert!(matches!(ended.exit, Exit::Code(_)), "{ended:?}");
    prop_assert!(ended.left.is_empty(), "{ended:?}");
    let code = ended.failure.as_ref().map(|error| error.code);
    // A process that has ended without a word, or has said what nobody expects.
    prop_assert_ne!(code, Some(ErrorCode::Supervisor), "{:?}", ended);
    // Nobody else is there who could change anything: what is carried out is what was asked for.
    let what = || ended.failure.as_ref().map(ToString::to_string);
    prop_assert!(!matches!(code, Some(ErrorCode::Verify | ErrorCode::Race)), "{:?}\n{}", what(), plan);
    prop_assert_eq!(ended.exit == Exit::Code(0), code.is_none(), "{:?}", ended);
    prop_assert_eq!((supervisor.mounts(), content(&directory)), before, "{:?}", ended);
    drop(supervisor);
    prop_assert_eq!(host_mounts(), host);
    Ok(code)
}

/// In the mount namespace that is there, without what needs one of the container's own.
fn in_inherited_mounts(spec: RootfsSpec) -> RootfsSpec {
    let namespaces = Namespaces { mount: Namespace::Inherit, ..spec.namespaces };
    let (propagation, readonly) = (None, spec.readonly.map(|_| ReadonlyRoot { recursive: false }));
    let (masks, readonly_paths, hooks) = (vec![], vec![], vec![]);
    RootfsSpec { namespaces, propagation, readonly, masks, readonly_paths, hooks, ..spec }
}

/// So many in each run; `PROPTEST_CASES` says otherwise.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48);
    // Local rejects are words that contradict each other.
    ProptestConfig {
        cases,
        max_shrink_iters: 400,
        max_local_rejects: u32::MAX,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn place() -> impl Strategy<Value = (Cell, Option<Level>)> {
    let places: Vec<(Cell, Level)> = Cell::ALL
        .into_iter()
        .flat_map(|cell| cell.levels().into_iter().map(move |level| (cell, level)))
        .collect();
    select(places).prop_map(|(cell, level)| (cell, Some(level)))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_left_whatever_is_asked_for(
        spec in specification(),
        (cell, level) in place(),
        inherit in weighted(0.1),
    ) {
        let spec = if inherit && cell == Cell::Root { in_inherited_mounts(spec) } else { spec };
        carry_out(&spec, cell, level)?;
    }
}

/// More mounts than one, some of them shared.
const TREES: &str = "mkdir /mnt/tree /mnt/peer; mount -t tmpfs -o mode=777 tree /mnt/tree; mkdir -m 777 /mnt/tree/sub; \
                     mount -t tmpfs -o mode=777,nosuid,noatime sub /mnt/tree/sub; mount -t tmpfs -o mode=777 peer /mnt/peer; \
                     mount --make-shared /mnt/peer";

fn check_asked(
    all: &[asked::Said],
    cell: Cell,
    level: Option<Level>,
    readonly: bool,
) -> Result<bool, TestCaseError> {
    // What is mounted on a peer of its own master is mounted on itself too.
    if all.iter().filter(|said| said.what == asked::What::Tree("/mnt/peer")).count() > 1 {
        return Ok(false);
    }
    let mut spec = RootfsSpec::new(Root::Directory(format!("{HERE}/root").as_str().into()));
    spec.add(rootfs::defaults::proc());
    spec.extend(all.iter().filter_map(asked::mount));
    spec.readonly = readonly.then_some(ReadonlyRoot { recursive: false });
    let Ok(plan) = Plan::new(&spec) else { return Ok(false) };
    let mut supervisor = Supervisor::start_isolated_with(cell, Path::new(HERE), TREES);
    let directory = supervisor.path(Path::new(HERE));
    fill(&directory, cell);
    let before = (supervisor.mounts(), content(&directory));
    let running = supervisor
        .begin(cell, &spec, Some(shell("cat /proc/self/mountinfo")), level)
        .map_err(|error| TestCaseError::fail(format!("refused by the supervisor: {error:?}")))?;
    let ended = supervisor.finish(&running);
    let code = ended.failure.as_ref().map(|error| error.code);
    let what = || format!("{}\n{plan}", ended.failure.as_ref().map_or_else(String::new, ToString::to_string));
    prop_assert!(
        !matches!(code, Some(ErrorCode::Verify | ErrorCode::Race | ErrorCode::Supervisor)),
        "{}",
        what()
    );
    // What is shared with the host is seen there, and stays.
    let passes = |said: &asked::Said| {
        said.what == asked::What::Tree("/mnt/peer") && said.words.iter().any(|word| word.ends_with("shared"))
    };
    if !all.iter().any(passes) {
        prop_assert_eq!((supervisor.mounts(), content(&directory)), before, "{:?}", ended);
    }
    if code.is_none() {
        let difference = asked::difference(all, &ended.output);
        prop_assert!(difference.is_none(), "{:?}\n{}\n{}", difference, plan, ended.output);
    }
    Ok(code.is_none())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_was_asked_for_is_there(all in vec(asked::said(), 1..6), (cell, level) in place(), readonly in any::<bool>()) {
        check_asked(&all, cell, level, readonly)?;
    }
}

/// The property would hold too if every specification were refused.
#[test]
fn a_few_of_them_are_carried_out() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut carried_out = 0;
    for _ in 0..20 {
        let mut spec = specification().new_tree(&mut runner).unwrap().current();
        spec.content.truncate(1);
        (spec.dev, spec.hooks) = (false, vec![]);
        carried_out += usize::from(carry_out(&spec, Cell::Root, None).unwrap().is_none());
    }
    assert!(carried_out > 0);
    let mut carried_out = 0;
    for _ in 0..20 {
        let all = vec(asked::said(), 1..4).new_tree(&mut runner).unwrap().current();
        carried_out += usize::from(check_asked(&all, Cell::Root, None, false).unwrap());
    }
    assert!(carried_out > 4, "{carried_out}");
}
