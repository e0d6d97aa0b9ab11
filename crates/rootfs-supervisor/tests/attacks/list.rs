//! The attacks: each row of the table in docs/security.md that a root, a volume or a configuration is enough for.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use rootfs::content::{Directory, FileContent, Symlink};
use rootfs::defaults::{dev, filesystem, proc, sysfs};
use rootfs::error::ErrorCode;
use rootfs::kernel::{memfd, supervisor_process};
use rootfs::options::attr;
use rootfs::path::PathBytes;
use rootfs::spec::{BindSource, Mask, MissingMask, Mount, MountKind, Root, RootfsSpec};
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::ground::{Ground, HIDDEN, SECRET, own_mounts, places};
use super::processes;
use super::support::{Cell, Ended, bind, default_spec};

/// What must come of it, besides that nothing gets out.
pub enum Expect {
    /// It runs.
    Runs,
    /// It runs, or fails with a typed error.
    Either,
    /// It fails, with any code.
    Fails,
    /// It fails with this code.
    Code(ErrorCode),
}

pub type Check = Box<dyn Fn(&Ground) -> Result<(), String> + Send + Sync>;
type CheckEnded = Box<dyn Fn(&Ground, &str) -> Result<(), String> + Send + Sync>;

pub enum Control {
    /// The same specification built by strings must trip the invariants, or this check that runs after it.
    Naive(Option<Check>),
    /// There is none, and why.
    None(&'static str),
}

pub struct Staged {
    pub spec: RootfsSpec,
    pub script: String,
    pub cwd: Option<String>,
    pub expect: Expect,
    /// What the container has printed after its mount table.
    pub check: Option<CheckEnded>,
    pub control: Control,
    /// Two names that are exchanged all the time.
    pub racer: Option<(PathBuf, PathBuf)>,
    /// Done in the namespace of the caller, before.
    pub host: Option<Check>,
    /// The OOM score of the command.
    pub oom_score: Option<i32>,
    /// What the supervisor is started by.
    pub starter: String,
    /// What the command reads from; otherwise nothing.
    pub stdin: Option<OwnedFd>,
    /// Held open by the caller meanwhile.
    #[expect(dead_code, reason = "it is there to be open")]
    pub held: Vec<OwnedFd>,
}

pub enum Stage {
    Container(Box<Staged>),
    /// Something else than a container's root: what ours does, and what a naive program does. An error has let it through.
    Direct(Check, Check),
}

pub struct Attack {
    pub name: &'static str,
    pub what: &'static str,
    pub variants: &'static [&'static str],
    pub stage: fn(&Ground, &str) -> Stage,
}

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "dev-link",
        what: "CVE-2026-41579, CVE-2026-47766",
        variants: &["absolute", "relative", "chain", "pts", "shm", "mqueue", "null", "ptmx"],
        stage: dev_link,
    },
    Attack {
        name: "proc-link",
        what: "CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867",
        variants: &[
            "proc absolute",
            "proc relative",
            "proc dangling",
            "proc loop",
            "proc swapped",
            "sys absolute",
            "sys dangling",
            "sys swapped",
            "below a link",
        ],
        stage: proc_link,
    },
    Attack {
        name: "mount-on-proc",
        what: "CVE-2019-16884",
        variants: &["/proc", "/proc/", "//proc", "/./proc", "/x/../proc", "/proc/self/attr", "/to-proc/self"],
        stage: mount_on_proc,
    },
    Attack {
        name: "volume-swap",
        what: "CVE-2021-30465, CVE-2024-45310, CVE-2026-41568, CVE-2026-42306",
        variants: &[
            "directory absolute",
            "directory upwards",
            "directory proc-root",
            "directory proc-fd",
            "file absolute",
            "file upwards",
            "file proc-root",
            "file proc-fd",
            "fifo absolute",
            "fifo upwards",
            "fifo proc-root",
            "fifo proc-fd",
        ],
        stage: volume_swap,
    },
    Attack {
        name: "null-device",
        what: "CVE-2025-31133",
        variants: &["link", "regular", "directory", "zero", "missing", "swapped"],
        stage: null_device,
    },
    Attack {
        name: "procfs-overmount",
        what: "CVE-2025-52881",
        variants: &[
            "a directory on /proc/sys",
            "a file on the parameter",
            "a directory on /proc",
            "self",
            "thread-self",
        ],
        stage: procfs_overmount,
    },
    Attack {
        name: "cwd-descriptor",
        what: "CVE-2024-21626",
        variants: &["fd/9", "fd/33", "fd/200", "cwd", "inside"],
        stage: cwd_descriptor,
    },
    Attack {
        name: "cwd-created",
        what: "CVE-2026-55686",
        variants: &["absolute", "relative"],
        stage: cwd_created,
    },
    Attack {
        name: "cleanup-swap",
        what: "CVE-2024-23652",
        variants: &["absolute", "relative"],
        stage: cleanup_swap,
    },
    Attack {
        name: "source-within",
        what: "CVE-2024-1753, CVE-2024-11218, CVE-2024-23651",
        variants: &["absolute", "relative", "below a link", "swapped"],
        stage: source_within,
    },
    Attack {
        name: "old-root",
        what: "CVE-2026-87766",
        variants: &[
            "proc-self file",
            "proc-self directory",
            "proc-self symlink",
            "proc-self bind",
            "proc-1 file",
            "proc-1 directory",
            "proc-1 symlink",
            "proc-1 bind",
            "oldroot file",
            "oldroot bind",
            ".oldroot directory",
            ".oldroot symlink",
        ],
        stage: old_root,
    },
    Attack {
        name: "root-link",
        what: "CVE-2026-48749",
        variants: &["absolute", "relative", "with a slash after it"],
        stage: root_link,
    },
    Attack { name: "sys-writable", what: "CVE-2023-25809", variants: &["rbind, ro"], stage: sys_writable },
    Attack {
        name: "inheritable-capabilities",
        what: "CVE-2022-29162, CVE-2022-27650, CVE-2022-24769",
        variants: &["of the caller"],
        stage: inheritable_capabilities,
    },
    Attack {
        name: "id-range",
        what: "CVE-2024-40635, CVE-2026-30892",
        variants: &["4294967296", "4294967295", "-1", "1.5", "\"1\"", "null"],
        stage: id_range,
    },
    Attack {
        name: "helper-file",
        what: "CVE-2019-5736",
        variants: &["opened before, written after its end"],
        stage: helper_file,
    },
    Attack {
        name: "neighbour-ptrace",
        what: "CVE-2016-9962",
        variants: &["commands", "a joined user namespace", "hooks"],
        stage: processes::neighbour_ptrace,
    },
    Attack {
        name: "terminal-input",
        what: "CVE-2017-5226",
        variants: &["another's terminal", "its controlling terminal"],
        stage: processes::terminal_input,
    },
    Attack {
        name: "wrong-frames",
        what: "CVE-2021-43784",
        variants: &[
            "nonsense",
            "shorter than a header",
            "another magic",
            "another version",
            "an unknown kind",
            "a longer body",
            "a shorter body",
            "missing descriptors",
            "more descriptors",
            "a kind of the other side",
            "too long",
            "a body that is none",
            "a length that wraps",
        ],
        stage: processes::wrong_frames,
    },
    Attack {
        name: "console-link",
        what: "CVE-2025-52565",
        variants: &["console", "pts/0", "ptmx", "tty", "console upwards", "pts/0 upwards"],
        stage: console_link,
    },
    Attack {
        name: "denied-name",
        what: "deny of a path that doesn't exist yet",
        variants: &[
            "deny-create in a tmpfs",
            "deny-create on the host",
            "readonly-parent on the host",
            "stub on the host",
            "deny-create below a link",
        ],
        stage: denied_name,
    },
];

pub fn staged(spec: RootfsSpec) -> Staged {
    Staged {
        spec,
        script: String::new(),
        cwd: None,
        expect: Expect::Either,
        check: None,
        control: Control::Naive(None),
        racer: None,
        host: None,
        oom_score: None,
        starter: String::new(),
        stdin: None,
        held: Vec::new(),
    }
}

pub fn container(staged: Staged) -> Stage {
    Stage::Container(Box::new(staged))
}

/// The usual container but for /dev: that is the image's.
fn without_dev(root: &Path) -> RootfsSpec {
    let mut spec = default_spec(root);
    spec.content.retain(|content| !content.destination().as_bytes().starts_with(b"/dev"));
    spec.dev = false;
    spec
}

fn tmpfs(destination: &str) -> Mount {
    filesystem(destination, "tmpfs", 0, &[("size", "64k")])
}

fn writable(mut mount: Mount) -> Mount {
    mount.attributes.set_recursive = attr::NOSUID | attr::NODEV;
    mount
}

fn dev_link(ground: &Ground, variant: &str) -> Stage {
    let image = ground.root.join("dev");
    let mut spec = default_spec(&ground.root);
    match variant {
        "absolute" => ground.link(&ground.outside, &image),
        "relative" => ground.link("../outside", &image),
        "chain" => {
            ground.link("etc/one", &image);
            ground.link("../two", &ground.root.join("etc/one"));
            ground.link(&ground.outside, &ground.root.join("two"));
        }
        name @ ("pts" | "shm" | "mqueue") => {
            ground.link(ground.outside.join("directory"), &image.join(name));
            spec = without_dev(&ground.root);
            let destination = format!("/dev/{name}");
            let all = dev(1 << 20, false);
            spec.extend(
                all.into_iter().filter(|mount| mount.destination.as_bytes() == destination.as_bytes()),
            );
        }
        name => {
            ground.link(ground.outside.join("secret"), &image.join(name));
            spec = without_dev(&ground.root);
            spec.dev = true;
        }
    }
    container(staged(spec))
}

fn proc_link(ground: &Ground, variant: &str) -> Stage {
    if variant == "below a link" {
        ground.link(&ground.outside, &ground.root.join("srv"));
        let mut spec = default_spec(&ground.root);
        let mut below = proc();
        below.destination = "/srv/proc".into();
        spec.add(below);
        return container(staged(spec));
    }
    let (name, how) = variant.split_once(' ').unwrap();
    let image = ground.root.join(name);
    let mut spec = RootfsSpec::new(Root::Directory(PathBytes::from(ground.root.as_path())));
    spec.add(if name == "proc" { proc() } else { sysfs(true) });
    let mut control = Control::Naive(None);
    match how {
        "absolute" => ground.link(&ground.outside, &image),
        "relative" => ground.link("../outside", &image),
        "dangling" => ground.link(ground.outside.join("made"), &image),
        "loop" => {
            ground.link(name, &image);
            control = Control::None("a loop leads nowhere");
        }
        _ => {
            let other = ground.root.join("other");
            ground.link("../outside", &other);
            return container(Staged {
                racer: Some((image, other)),
                script: if name == "proc" { String::new() } else { "true".into() },
                ..staged(spec)
            });
        }
    }
    container(Staged { expect: Expect::Code(ErrorCode::Proc), control, ..staged(spec) })
}

fn mount_on_proc(ground: &Ground, variant: &str) -> Stage {
    ground.link("/proc", &ground.root.join("to-proc"));
    ground.directory(&ground.root.join("x"));
    let mut spec = default_spec(&ground.root);
    spec.add(tmpfs(variant));
    let control = Control::Naive(Some(Box::new(|ground| {
        let below = ground.root.join("proc");
        let mut fake =
            own_mounts().into_iter().filter(|line| places(line).1.starts_with(below.to_str().unwrap()));
        match fake.next_back() {
            Some(line) if !line.contains(" - proc ") => Err(line),
            _ => Ok(()),
        }
    })));
    container(Staged { expect: Expect::Code(ErrorCode::Proc), control, ..staged(spec) })
}

fn volume_swap(ground: &Ground, variant: &str) -> Stage {
    let (what, how) = variant.split_once(' ').unwrap();
    let (x, y) = (ground.shared.join("x"), ground.shared.join("y"));
    let mut held = Vec::new();
    let below = if what == "directory" { "" } else { "/secret" };
    let text = |path: PathBuf| PathBuf::from(format!("{}{below}", path.display()));
    let target = match how {
        "absolute" => text(ground.outside.clone()),
        "upwards" => text(ground.upwards()),
        "proc-root" => text(ground.below_self("/proc/thread-self/root")),
        _ => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(CWD, &ground.outside, flags, Mode::empty()).unwrap();
            let target = text(PathBuf::from(format!("/proc/thread-self/fd/{}", fd.as_raw_fd())));
            held.push(fd);
            target
        }
    };
    ground.link(target, &y);
    let mut spec = default_spec(&ground.root);
    spec.add(writable(bind(&ground.shared, "/data")));
    match what {
        "directory" => {
            ground.directory(&x);
            spec.extend((0..40).map(|number| tmpfs(&format!("/data/x/m{number}"))));
        }
        "file" => ground.file(&x, ""),
        _ => {
            rustix::fs::mknodat(CWD, &x, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            ground.own(&x);
        }
    }
    if what != "directory" {
        let source = ground.scratch.0.join("source");
        ground.file(&source, "source");
        spec.extend((0..40).map(|_| bind(&source, "/data/x")));
    }
    container(Staged { racer: Some((x, y)), held, ..staged(spec) })
}

fn null_device(ground: &Ground, variant: &str) -> Stage {
    ground.file(&ground.root.join("etc/hidden"), HIDDEN);
    let null = ground.root.join("dev/null");
    let node = |path: &Path, minor| {
        let mode = Mode::from_bits_retain(0o666);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, minor))
            .unwrap();
    };
    let mut racer = None;
    match variant {
        "link" => ground.link(ground.outside.join("secret"), &null),
        "regular" => ground.file(&null, "not null"),
        "directory" => ground.directory(&null),
        "zero" => node(&null, 5),
        "missing" => {}
        _ => {
            let other = ground.root.join("dev/other");
            node(&null, 3);
            ground.link(ground.outside.join("secret"), &other);
            racer = Some((null, other));
        }
    }
    let mut spec = without_dev(&ground.root);
    spec.masks.push(Mask { path: "/etc/hidden".into(), missing: MissingMask::Error });
    let read = |path: &Path| {
        let mut text = [0; 64];
        let count = fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut text));
        count.map(|count| String::from_utf8_lossy(&text[..count]).into_owned()).unwrap_or_default()
    };
    container(Staged {
        script: "head -c 64 /etc/hidden".into(),
        expect: Expect::Runs,
        check: Some(Box::new(|_, text| if text.is_empty() { Ok(()) } else { Err(format!("read {text:?}")) })),
        control: Control::Naive(Some(Box::new(move |ground| {
            let text = read(&ground.root.join("etc/hidden"));
            if text.is_empty() { Ok(()) } else { Err(text) }
        }))),
        racer,
        ..staged(spec)
    })
}

fn console_link(ground: &Ground, variant: &str) -> Stage {
    let (name, how) = variant.split_once(' ').unwrap_or((variant, ""));
    let target = if how == "upwards" { ground.upwards() } else { ground.outside.clone() };
    ground.directory(&ground.root.join("dev/pts"));
    ground.link(target.join("secret"), &ground.root.join("dev").join(name));
    let mut spec = without_dev(&ground.root);
    // A terminal of the host on the name, as runtimes make the console.
    spec.add(bind(Path::new("/dev/null"), &format!("/dev/{name}")));
    container(Staged { script: format!("cat /dev/{name}; echo overwritten > /dev/{name}"), ..staged(spec) })
}

fn denied_name(ground: &Ground, variant: &str) -> Stage {
    let (how, place) = variant.split_once(' ').unwrap();
    let (_, missing) = MissingMask::ALL.into_iter().find(|(word, _)| *word == how).unwrap();
    let mut spec = default_spec(&ground.root);
    spec.readonly = None;
    ground.directory(&ground.root.join("run"));
    ground.directory(&ground.root.join("data"));
    let (path, expect) = match place {
        "in a tmpfs" => {
            spec.add(tmpfs("/run"));
            ("/run/made/deep", Expect::Runs)
        }
        "below a link" => {
            // In the tmpfs nothing is a link; the image's own link to it can be replaced.
            spec.add(tmpfs("/run"));
            ground.link("run", &ground.root.join("to-run"));
            ("/to-run/made", Expect::Either)
        }
        _ => {
            spec.add(writable(bind(&ground.shared, "/data")));
            let expect =
                if how == "deny-create" { Expect::Code(ErrorCode::Unsupported) } else { Expect::Runs };
            ("/data/made", expect)
        }
    };
    spec.masks.push(Mask { path: path.into(), missing });
    let parent = Path::new(path).parent().unwrap().to_owned();
    let (parent, away) = (parent.display().to_string(), format!("{}.away", parent.display()));
    let at = path.to_owned();
    container(Staged {
        script: format!(
            "exec 2>&-; mkdir -p {parent}; mkdir {path}; echo attack > {path}; rm -f {path}; \
             mv {parent} {away} && mkdir {parent}; echo attack > {path}; cat {path}"
        ),
        expect,
        check: Some(Box::new(
            |_, text| if text.is_empty() { Ok(()) } else { Err(format!("made: {text:?}")) },
        )),
        control: Control::Naive(Some(Box::new(move |ground| {
            let made = ground.root.join(at.strip_prefix('/').unwrap());
            let _ = fs::create_dir_all(made.parent().unwrap());
            match fs::write(&made, "attack") {
                Ok(()) => Err("made".into()),
                Err(_) => Ok(()),
            }
        }))),
        ..staged(spec)
    })
}

/// What looks like the files of a process, and is the attacker's.
fn fake_process(at: &Path, outside: &Path) {
    fs::create_dir_all(at.join("attr")).unwrap();
    fs::create_dir(at.join("fd")).unwrap();
    for name in ["attr/exec", "attr/current", "oom_score_adj", "uid_map", "gid_map", "setgroups", "mountinfo"]
    {
        fs::write(at.join(name), "").unwrap();
    }
    for number in 0..40 {
        std::os::unix::fs::symlink(outside.join("directory"), at.join("fd").join(number.to_string()))
            .unwrap();
    }
}

/// Mounts a link on what is a link itself, as only the newer calls can.
fn mount_link(target: &Path, link: &Path, on: &str) -> rustix::io::Result<()> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    std::os::unix::fs::symlink(target, link).unwrap();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = open_tree(CWD, link, flags)?;
    move_mount(tree, "", CWD, on, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn procfs_overmount(ground: &Ground, variant: &str) -> Stage {
    const SCORE: &str = "321";
    let mut spec = default_spec(&ground.root);
    spec.sysctl.push(("kernel.msgmax".into(), "4242".into()));
    let none: Option<&str> = None;
    let how = variant.to_owned();
    let host: Check = Box::new(move |ground| {
        let outside = &ground.outside;
        let bind = |source: &Path, on: &str| mount(Some(source), on, none, MsFlags::MS_BIND, none).unwrap();
        match how.as_str() {
            "a directory on /proc/sys" => {
                fs::create_dir(outside.join("kernel")).unwrap();
                fs::write(outside.join("kernel/msgmax"), "").unwrap();
                bind(outside, "/proc/sys");
            }
            "a file on the parameter" => bind(&outside.join("secret"), "/proc/sys/kernel/msgmax"),
            "a directory on /proc" => {
                let last = fs::read_to_string("/proc/loadavg").unwrap();
                let last: i32 = last.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
                fake_process(&outside.join("self"), outside);
                fake_process(&outside.join("thread-self"), outside);
                // And those of the processes to come.
                for pid in last..last + 40 {
                    fake_process(&outside.join(pid.to_string()), outside);
                }
                fs::create_dir_all(outside.join("sys/kernel")).unwrap();
                fs::write(outside.join("sys/kernel/msgmax"), "").unwrap();
                bind(outside, "/proc");
            }
            name => {
                let (fake, on) = (outside.join("process"), format!("/proc/{name}"));
                fake_process(&fake, outside);
                mount_link(&fake, &outside.join("to-process"), &on).map_err(|errno| errno.to_string())?;
            }
        }
        Ok(())
    });
    container(Staged {
        script: "cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj".into(),
        check: Some(Box::new(|_, text| {
            if text == format!("4242\n{SCORE}\n") { Ok(()) } else { Err(format!("it is {text:?}")) }
        })),
        host: Some(host),
        oom_score: Some(SCORE.parse().unwrap()),
        control: Control::Naive(Some(Box::new(|_| {
            for file in ["self/oom_score_adj", "thread-self/oom_score_adj", "self/attr/exec"] {
                let _ = fs::write(Path::new("/proc").join(file), SCORE);
            }
            Ok(())
        }))),
        ..staged(spec)
    })
}

fn cwd_descriptor(ground: &Ground, variant: &str) -> Stage {
    let spec = default_spec(&ground.root);
    // Numbers as an image guesses them, without close-on-exec, as a careless caller leaves them.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, &ground.outside, flags, Mode::empty()).unwrap();
    let held: Vec<OwnedFd> = [9, 33, 200]
        .into_iter()
        .map(|number| {
            let fd = rustix::io::fcntl_dupfd_cloexec(&directory, number).unwrap();
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
            fd
        })
        .collect();
    if variant == "inside" {
        return container(Staged {
            script: "ls /proc/self/fd".into(),
            expect: Expect::Runs,
            check: Some(Box::new(|_, text| {
                // The last one is of ls itself.
                if text == "0\n1\n2\n3\n" { Ok(()) } else { Err(format!("descriptors {text:?}")) }
            })),
            control: chroot_control("ls /proc/self/fd | wc -l", |text| text.trim() == "4"),
            held,
            ..staged(spec)
        });
    }
    let number = held.iter().map(AsRawFd::as_raw_fd).min().unwrap();
    let path = format!("/proc/self/{variant}");
    let control = match variant {
        "cwd" => Control::None("it is where the program is already"),
        _ => chroot_control(&format!("cd /proc/self/fd/{number} && cat secret"), |text| text != SECRET),
    };
    let expect = if variant == "cwd" { Expect::Either } else { Expect::Fails };
    container(Staged { script: "cat secret".into(), cwd: Some(path), expect, control, held, ..staged(spec) })
}

/// A naive program enters the root with chroot(2) and executes a shell there.
fn chroot_control(script: &str, holds: fn(&str) -> bool) -> Control {
    let script = script.to_owned();
    Control::Naive(Some(Box::new(move |ground| {
        let output = Command::new("/usr/sbin/chroot")
            .arg(&ground.root)
            .args(["/bin/sh", "-c", &script])
            .env("PATH", "/bin")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if holds(&text) { Ok(()) } else { Err(text) }
    })))
}

fn cwd_created(ground: &Ground, variant: &str) -> Stage {
    let target = if variant == "absolute" { ground.outside.clone() } else { ground.upwards() };
    ground.link(target, &ground.root.join("work"));
    // In the root the link leads to a place that is there, and another.
    ground.directory(&ground.root.join(ground.outside.strip_prefix("/").unwrap()));
    for path in ground.root.join(ground.outside.strip_prefix("/").unwrap()).ancestors() {
        if path == ground.root {
            break;
        }
        ground.own(path);
    }
    let mut spec = default_spec(&ground.root);
    spec.readonly = None;
    container(Staged {
        script: "pwd".into(),
        cwd: Some("/work/made/deep".into()),
        expect: Expect::Runs,
        control: Control::Naive(Some(Box::new(|ground| {
            let _ = super::naive::make_directories(&ground.root.join("work/made/deep"), 0);
            Ok(())
        }))),
        ..staged(spec)
    })
}

fn cleanup_swap(ground: &Ground, variant: &str) -> Stage {
    ground.directory(&ground.root.join("data"));
    ground.directory(&ground.outside.join("made"));
    let target = if variant == "absolute" { ground.outside.clone() } else { ground.upwards() };
    let mut spec = default_spec(&ground.root);
    spec.readonly = None;
    spec.add(tmpfs("/data/made"));
    let link = target.clone();
    container(Staged {
        script: format!("mv /data /data.away && ln -s {} /data && echo swapped", target.display()),
        expect: Expect::Runs,
        check: Some(Box::new(|_, text| if text == "swapped\n" { Ok(()) } else { Err(format!("{text:?}")) })),
        control: Control::Naive(Some(Box::new(move |ground| {
            let data = ground.root.join("data");
            fs::rename(&data, ground.root.join("data.away")).unwrap();
            std::os::unix::fs::symlink(&link, &data).unwrap();
            let _ = fs::remove_dir(data.join("made"));
            Ok(())
        }))),
        ..staged(spec)
    })
}

fn source_within(ground: &Ground, variant: &str) -> Stage {
    let (x, y) = (ground.shared.join("x"), ground.shared.join("y"));
    let mut racer = None;
    let mut source = x.clone();
    match variant {
        "absolute" => ground.link(&ground.outside, &x),
        "relative" => ground.link("../outside", &x),
        "below a link" => {
            ground.link("..", &x);
            source = x.join("outside");
        }
        _ => {
            ground.directory(&x);
            ground.link("../outside", &y);
            racer = Some((x, y));
        }
    }
    let mut spec = default_spec(&ground.root);
    let mut mount = bind(&source, "/mnt");
    if let MountKind::Bind { source: BindSource::Host(_), within, .. } = &mut mount.kind {
        *within = Some(PathBytes::from(ground.shared.as_path()));
    }
    spec.add(mount);
    container(Staged { script: "cat /mnt/secret".into(), racer, ..staged(spec) })
}

fn old_root(ground: &Ground, variant: &str) -> Stage {
    let (place, what) = variant.split_once(' ').unwrap();
    let before = match place {
        "proc-self" => "/proc/thread-self/root",
        "proc-1" => "/proc/1/root",
        "oldroot" => "/oldroot",
        _ => "/.oldroot",
    };
    ground.link(ground.below_self(before), &ground.shared.join("link"));
    let mut spec = default_spec(&ground.root);
    spec.add(writable(bind(&ground.shared, "/data")));
    let path = PathBytes::from("/data/link/made");
    match what {
        "file" => {
            let content = FileContent::new(b"made".to_vec());
            let kind = MountKind::File { content, mode: 0o644, uid: 0, gid: 0 };
            spec.add(Mount { destination: path, kind, ..tmpfs("/x") });
        }
        "directory" => spec.add(Directory { path, mode: None, uid: None, gid: None }),
        "symlink" => spec.add(Symlink { target: "/etc".into(), path }),
        _ => spec.add(bind(Path::new("/usr/share"), "/data/link/made")),
    }
    let control = if place.ends_with("oldroot") {
        Control::None("only bubblewrap has such a directory")
    } else if place == "proc-1" && fs::metadata("/proc/1/root/").is_err() {
        Control::None("nobody may look into process 1 here")
    } else {
        Control::Naive(None)
    };
    container(Staged { control, ..staged(spec) })
}

fn root_link(ground: &Ground, variant: &str) -> Stage {
    let link = ground.scratch.0.join("link");
    let target = if variant == "relative" { PathBuf::from("outside") } else { ground.outside.clone() };
    ground.link(target, &link);
    let text = format!("{}{}", link.display(), if variant.starts_with("with") { "/" } else { "" });
    let spec = default_spec(Path::new(&text));
    container(Staged { expect: Expect::Code(ErrorCode::Root), ..staged(spec) })
}

fn sys_writable(ground: &Ground, _: &str) -> Stage {
    let mut spec = default_spec(&ground.root);
    spec.content.retain(|content| !content.destination().as_bytes().starts_with(b"/sys"));
    spec.add(bind(Path::new("/sys"), "/sys"));
    container(Staged {
        script: "grep ' /sys' /proc/self/mountinfo; mkdir /sys/fs/cgroup/attack 2>&- && echo made".into(),
        expect: Expect::Runs,
        check: Some(Box::new(|_, text| {
            let writable = text
                .lines()
                .find(|line| !line.split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro")));
            if text.lines().count() < 2 {
                return Err(format!("no mount: {text:?}"));
            }
            writable.map_or(Ok(()), |line| Err(line.to_owned()))
        })),
        control: Control::Naive(Some(Box::new(|ground| {
            let below = format!("{}/sys/", ground.root.display());
            let writable = own_mounts()
                .into_iter()
                .filter(|line| places(line).1.starts_with(&below))
                .find(|line| line.split(' ').nth(5).is_some_and(|flags| flags.starts_with("rw")));
            writable.map_or(Ok(()), Err)
        }))),
        ..staged(spec)
    })
}

/// A program whose caller has given it capabilities to inherit.
const INHERITING: &str = "/usr/bin/setpriv --inh-caps +chown,+kill";

fn inheritable_capabilities(ground: &Ground, _: &str) -> Stage {
    const LOOK: &str = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
    let none =
        |text: &str| text.lines().count() == 2 && text.lines().all(|line| line.ends_with("0000000000000000"));
    container(Staged {
        script: LOOK.into(),
        expect: Expect::Runs,
        check: Some(Box::new(move |_, text| if none(text) { Ok(()) } else { Err(text.to_owned()) })),
        control: Control::Naive(Some(Box::new(move |_| {
            let output =
                Command::new("/bin/sh").args(["-c", &format!("{INHERITING} {LOOK}")]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if none(&text) { Ok(()) } else { Err(text) }
        }))),
        starter: INHERITING.into(),
        ..staged(default_spec(&ground.root))
    })
}

fn id_range(_: &Ground, variant: &str) -> Stage {
    let (ours, naive) = (variant.to_owned(), variant.to_owned());
    Stage::Direct(
        Box::new(move |_| {
            let text = format!(
                r#"{{"ociVersion":"1.2.0","root":{{"path":"rootfs"}},"process":{{"cwd":"/","args":["sh"],"user":{{"uid":{ours},"gid":0}}}},"linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#
            );
            let options = rootfs::oci::ReadOptions {
                ignore: Vec::new(),
                expect_root: true,
                bundle: "/bundle".into(),
                has_bundle: false,
            };
            match rootfs::oci::read(text.as_bytes(), &options) {
                Err(error) if error.to_string().contains("process.user.uid") => Ok(()),
                Err(error) => Err(format!("another error: {error}")),
                Ok(config) => Err(format!("uid {:?}", config.process.map(|process| process.user.uid))),
            }
        }),
        // What is a number in some way is one, and wraps.
        Box::new(move |_| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is the hole")]
            let wrapped = naive.trim_matches('"').parse::<f64>().unwrap_or_default() as i64 as u32;
            Err(format!("uid {wrapped}"))
        }),
    )
}

fn helper_file(_: &Ground, _: &str) -> Stage {
    /// Writes to a program that was opened while it ran.
    fn write_again(handle: &OwnedFd) -> Result<(), String> {
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let opened = fs::OpenOptions::new().write(true).open(path);
        match opened.and_then(|mut file| file.write_all(b"overwritten")) {
            Ok(()) => Err("overwritten".into()),
            Err(_) => Ok(()),
        }
    }
    fn open_exe(pid: i32) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, format!("/proc/{pid}/exe"), flags, Mode::empty()).unwrap()
    }
    Stage::Direct(
        Box::new(|_| {
            let program = fs::read(env!("CARGO_BIN_EXE_rootfs-supervisor")).unwrap();
            let file = memfd::sealed(c"rootfs-supervisor", &program, true).unwrap();
            let (here, there) = super::support::pair();
            let executable = supervisor_process::Executable::Memory(file.as_fd());
            let supervisor = supervisor_process::start(&executable, None, there.as_fd()).unwrap();
            drop(there);
            rootfs::protocol::receive(&here).unwrap();
            let handle = open_exe(supervisor.pid);
            let running = write_again(&handle);
            drop(here);
            while !supervisor.reap() {
                std::thread::yield_now();
            }
            running?;
            write_again(&handle)?;
            let after = memfd::read(&file, 64 << 20).unwrap();
            if after == program { Ok(()) } else { Err("the program has changed".into()) }
        }),
        Box::new(|ground| {
            let program = ground.scratch.0.join("busybox");
            fs::copy("/bin/busybox", &program).unwrap();
            let mut child = Command::new(&program).args(["sleep", "0.05"]).spawn().unwrap();
            let handle = open_exe(i32::try_from(child.id()).unwrap());
            child.wait().unwrap();
            write_again(&handle)
        }),
    )
}

/// What the table says of a run that held.
pub fn result_text(ended: &Ended) -> String {
    match &ended.failure {
        Some(error) => error.code.name().trim_start_matches("ERR_ROOTFS_").to_lowercase(),
        None => "ran".into(),
    }
}

/// The cells of the table, as words.
pub fn cell_name(cell: Cell) -> &'static str {
    match cell {
        Cell::Root => "root",
        Cell::RootUser | Cell::RootRange => "root, user namespace",
        Cell::Ordinary => "unprivileged",
    }
}
