//! The reader and the writer together: what runc writes, what is refused where, and that both mean the same.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fields::{FIELDS, Treatment};
use super::node::Context;
use super::read::{read_in, read_value};
use super::{Config, ReadOptions, read, write};
use crate::defaults;
use crate::error::{Error, ErrorCode, Result};
use crate::options::{Propagation, attr};
use crate::path::PathBytes;
use crate::plan::{Action, Plan};
use crate::process::DEFAULT_CAPABILITIES;
use crate::spec::{
    BindSource, Content, Mask, MissingMask, MountKind, Namespace, ReadonlyRoot, Root, RootfsSpec,
    UserNamespace,
};

pub(super) fn options(ignore: &[&str]) -> ReadOptions {
    ReadOptions {
        ignore: ignore.iter().map(|name| (*name).to_owned()).collect(),
        expect_root: true,
        bundle: "/b".into(),
        has_bundle: true,
    }
}

fn minimal() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "linux": { "namespaces": [{ "type": "mount" }] },
    })
}

/// The minimal config with a value put in, on the way to which objects are made.
fn with(pointer: &str, value: Value) -> Value {
    let mut config = minimal();
    put(&mut config, pointer, value);
    config
}

fn put(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for name in pointer.split('/').skip(1) {
        if !place.is_array() && !place.is_object() {
            *place = json!({});
        }
        place = match place {
            Value::Array(items) => {
                let index: usize = name.parse().unwrap();
                items.resize(items.len().max(index + 1), json!({}));
                &mut items[index]
            }
            place => &mut place[name],
        };
    }
    *place = value;
}

fn refusal(config: &Value) -> Box<Error> {
    read_value(config, &options(&[])).unwrap_err()
}

/// The mounts of a specification; there is nothing else in those of a config.
fn mount_kinds(config: &Config) -> Vec<&MountKind> {
    config
        .rootfs
        .content
        .iter()
        .map(|content| match content {
            Content::Mount(mount) => &mount.kind,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// What `runc spec` writes, with `terminal` set to false.
fn runc_spec() -> Value {
    let mut config: Value = serde_json::from_str(include_str!("testdata/runc-spec.json")).unwrap();
    put(&mut config, "/process/terminal", false.into());
    config
}

#[test]
fn what_runc_writes_is_the_builders_defaults() {
    let Config { rootfs, process } = read_value(&runc_spec(), &options(&[])).unwrap();
    let mut expected = RootfsSpec::new(Root::Directory("/b/rootfs".into()));
    expected.readonly = Some(ReadonlyRoot { recursive: false });
    expected.add(defaults::proc());
    expected.extend(defaults::dev(defaults::DEV_SIZE, false));
    expected.add(defaults::sysfs(true));
    expected.add(defaults::cgroup(true));
    expected.masks =
        defaults::MASKED_PATHS.map(|path| Mask { path: path.into(), missing: MissingMask::Skip }).to_vec();
    expected.readonly_paths = defaults::READONLY_PATHS.map(PathBytes::from).to_vec();
    expected.hostname = Some("runc".into());
    let fstypes = |spec: &RootfsSpec| -> Vec<String> {
        Plan::new(spec)
            .unwrap()
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Mount { mount, .. } => Some(format!("{} {:?}", mount.destination, mount.attributes)),
                _ => None,
            })
            .collect()
    };
    assert_eq!(fstypes(&rootfs), fstypes(&expected));
    assert_eq!((&rootfs.masks, &rootfs.readonly_paths), (&expected.masks, &expected.readonly_paths));
    assert_eq!((rootfs.readonly, &rootfs.hostname), (expected.readonly, &expected.hostname));
    assert!(rootfs.dev);
    assert_eq!(rootfs.namespaces.user, UserNamespace::None);
    assert_eq!(
        (&rootfs.namespaces.network, &rootfs.namespaces.cgroup),
        (&Namespace::New, &Namespace::Inherit)
    );
    let process = process.unwrap();
    assert_eq!(process.args, [b"sh"]);
    let capabilities = process.capabilities.unwrap();
    assert_eq!(capabilities.permitted, DEFAULT_CAPABILITIES);
    assert_eq!(capabilities.ambient, 0);
    let codes: Vec<_> = rootfs.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(codes, ["not-enforced", "ambient-dropped"]);
}

#[test]
fn both_built_in_exceptions_are_warnings_of_the_plan() {
    let Config { rootfs, .. } = read_value(&runc_spec(), &options(&[])).unwrap();
    let messages: Vec<_> = Plan::new(&rootfs).unwrap().warnings.into_iter().map(|w| w.message).collect();
    assert!(messages[0].starts_with("linux.resources is not enforced"), "{messages:?}");
    assert!(messages[1].starts_with("process.capabilities.ambient: CAP_KILL, "), "{messages:?}");
}

#[test]
fn each_refused_field_is_refused_with_its_pointer_and_passes_when_it_is_named() {
    for field in FIELDS {
        let Treatment::Refused(code) = field.treatment else { continue };
        let pointer = format!("/{}", field.path.replace("[].", "/0/").replace('.', "/"));
        let mut config = minimal();
        if field.path.starts_with("mounts") {
            config["mounts"] = json!([{ "destination": "/x", "type": "tmpfs" }]);
        }
        if field.path.starts_with("process") {
            config["process"] = json!({ "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } });
        }
        for empty in [json!(null), json!(""), json!([]), json!({})] {
            put(&mut config, &pointer, empty.clone());
            assert!(read_value(&config, &options(&[])).is_ok(), "{} {empty}", field.path);
        }
        put(&mut config, &pointer, json!({ "a": true }));
        let error = refusal(&config);
        assert_eq!((error.code, error.pointer.as_deref()), (code, Some(&*pointer)), "{error:?}");
        assert!(error.hint.as_deref().unwrap().contains(field.path), "{error:?}");
        for name in [field.path, &pointer] {
            let Config { rootfs, .. } = read_value(&config, &options(&[name])).unwrap();
            assert_eq!(rootfs.warnings[0].code, "ignored-field", "{name}");
        }
    }
}

#[test]
fn each_enforced_field_is_read() {
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let hook = json!([{ "path": "/hook", "args": ["hook"], "env": ["A=b"], "timeout": 3 }]);
    let config = json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/x", "source": "tmpfs", "type": "tmpfs", "options": ["ro"] },
            { "destination": "/y", "source": "/y", "options": ["rbind"], "uidMappings": mapping, "gidMappings": mapping },
        ],
        "hostname": "box",
        "domainname": "example",
        "process": {
            "terminal": false, "cwd": "/", "env": [], "args": ["sh"], "noNewPrivileges": true, "oomScoreAdj": 100,
            "apparmorProfile": "docker-default", "selinuxLabel": "u:r:t:s0",
            "user": { "uid": 1, "gid": 2, "umask": 63, "additionalGids": [3] },
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
        },
        "hooks": {
            "prestart": hook, "createRuntime": hook, "createContainer": hook, "startContainer": hook,
            "poststart": hook, "poststop": hook,
        },
        "annotations": { "org.example.key": "value" },
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "user" }, { "type": "uts" }, { "type": "network", "path": "/n" },
            ],
            "uidMappings": mapping, "gidMappings": mapping,
            "devices": [
                { "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0 },
            ],
            "rootfsPropagation": "private", "maskedPaths": ["/m"], "readonlyPaths": ["/r"],
            "sysctl": { "net.ipv4.ip_forward": "1" }, "mountLabel": "",
        },
    });
    let context = Context::new(&[]);
    let Config { rootfs, process } = read_in(&context, &config, &options(&[])).unwrap();
    let read: BTreeSet<&str> = context.read.take();
    let enforced: BTreeSet<&str> = FIELDS
        .iter()
        .filter(|field| field.treatment == Treatment::Enforced)
        .map(|field| field.path)
        .collect();
    assert_eq!(enforced.difference(&read).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(rootfs.hooks.len(), 6);
    assert_eq!(rootfs.hooks[0].timeout, Some(3));
    assert_eq!(rootfs.sysctl, [("net.ipv4.ip_forward".to_owned(), "1".to_owned())]);
    assert_eq!(rootfs.domainname.as_deref(), Some("example"));
    assert_eq!(rootfs.annotations, [("org.example.key".to_owned(), "value".to_owned())]);
    assert_eq!(rootfs.namespaces.network, Namespace::Path("/n".into()));
    assert_eq!(rootfs.propagation, Propagation::from_name("private"));
    let process = process.unwrap();
    assert_eq!((process.user.umask, process.oom_score_adj), (Some(63), Some(100)));
    assert_eq!(process.apparmor_profile.as_deref(), Some("docker-default"));
    assert_eq!(process.selinux_label.as_deref(), Some("u:r:t:s0"));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_told_with_its_pointer() {
    use ErrorCode::{Spec, Unsupported};
    let process = |key: &str, value: Value| {
        let mut config =
            with("/process", json!({ "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } }));
        put(&mut config, &format!("/process/{key}"), value);
        config
    };
    let linux = |key: &str, value: Value| with(&format!("/linux/{key}"), value);
    let mount = |value: Value| with("/mounts", json!([{ "destination": "/ok", "type": "tmpfs" }, value]));
    let namespaces = |list: Value| linux("namespaces", list);
    let cases = [
        (with("/ociVersion", json!("2.0.0")), Unsupported, "/ociVersion"),
        (with("/ociVersion", json!("1.0")), Spec, "/ociVersion"),
        (with("/ociVersion", json!(null)), Spec, "/ociVersion"),
        (with("/root", json!(null)), Spec, "/root"),
        (with("/root/path", json!("")), Spec, "/root/path"),
        (with("/root/path", json!("a\0b")), Spec, "/root/path"),
        (with("/root/other", json!(1)), Spec, "/root/other"),
        (with("/other", json!(null)), Spec, ""),
        (with("/a~1b", json!(1)), Spec, "/a~01b"),
        (with("/root.path", json!("rootfs")), Spec, "/root.path"),
        (with("/linux.seccomp", json!({})), Spec, "/linux.seccomp"),
        (with("/mounts[].type", json!("tmpfs")), Spec, "/mounts[].type"),
        (with("/hooks/*", json!([{ "path": "/x" }])), Spec, "/hooks/*"),
        (with("/linux", json!(null)), Spec, "/linux"),
        (with("/hostname", json!("box")), Spec, "/hostname"),
        (with("/hostname", json!(1)), Spec, "/hostname"),
        (with("/annotations", json!({ "a/b": 1 })), Spec, "/annotations/a~1b"),
        (linux("sysctl", json!({ "net.ipv4.ip_forward": "1" })), Spec, "/linux/sysctl/net.ipv4.ip_forward"),
        (linux("sysctl", json!({ "net.ipv4.ip_forward": 1 })), Spec, "/linux/sysctl/net.ipv4.ip_forward"),
        (linux("sysctl", json!({ "kernel/hostname": "x" })), Spec, "/linux/sysctl/kernel~1hostname"),
        (with("/domainname", json!("example")), Spec, "/domainname"),
        (with("/annotations", json!({ "": "x" })), Spec, "/annotations/"),
        (process("terminal", json!(true)), Spec, "/process/terminal"),
        (process("args", json!([])), Spec, "/process/args"),
        (process("args", json!(["sh", 1])), Spec, "/process/args/1"),
        (process("cwd", json!("tmp")), Spec, "/process/cwd"),
        (process("cwd", json!(null)), Spec, "/process/cwd"),
        (process("env", json!(["A=b", "C"])), Spec, "/process/env/1"),
        (process("env", json!(["=b"])), Spec, "/process/env/0"),
        (process("user/uid", json!(4_294_967_295_u32)), Spec, "/process/user/uid"),
        (process("user/uid", json!(-1)), Spec, "/process/user/uid"),
        (process("user/uid", json!(1.5)), Spec, "/process/user/uid"),
        (process("user/uid", json!("1")), Spec, "/process/user/uid"),
        (process("user/gid", json!(null)), Spec, "/process/user/gid"),
        (process("user/umask", json!(0o1000)), Spec, "/process/user/umask"),
        (process("oomScoreAdj", json!(1001)), Spec, "/process/oomScoreAdj"),
        (process("apparmorProfile", json!("a\0b")), Spec, "/process/apparmorProfile"),
        (process("selinuxLabel", json!(["u:r:t"])), Spec, "/process/selinuxLabel"),
        (
            process("capabilities", json!({ "effective": ["CAP_KILL"] })),
            Spec,
            "/process/capabilities/effective",
        ),
        (
            process("rlimits", json!([{ "type": "NOFILE", "soft": 1, "hard": 1 }])),
            Spec,
            "/process/rlimits/0/type",
        ),
        (
            process("rlimits", json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }])),
            Spec,
            "/process/rlimits/0/soft",
        ),
        (
            process("rlimits", json!([{ "type": "RLIMIT_CPU", "soft": -1, "hard": 1 }])),
            Spec,
            "/process/rlimits/0/soft",
        ),
        (mount(json!({ "type": "tmpfs" })), Spec, "/mounts/1/destination"),
        (mount(json!({ "destination": "/x" })), Spec, "/mounts/1"),
        (mount(json!({ "destination": "/x", "type": "bind", "source": "/y" })), Spec, "/mounts/1"),
        (mount(json!({ "destination": "/x", "options": ["bind"] })), Spec, "/mounts/1"),
        (
            mount(json!({ "destination": "/x", "type": "tmpfs", "options": ["ro", ""] })),
            Spec,
            "/mounts/1/options/1",
        ),
        (with("/linux", json!({ "namespaces": [], "maskedPaths": ["/m"] })), Spec, "/linux/maskedPaths"),
        (with("/linux", json!({ "readonlyPaths": ["/r"] })), Spec, "/linux/readonlyPaths"),
        (namespaces(json!([{ "type": "mount" }, { "type": "mount" }])), Spec, "/linux/namespaces/1/type"),
        (namespaces(json!([{ "type": "mount" }, { "type": "nosuch" }])), Spec, "/linux/namespaces/1/type"),
        (namespaces(json!([{ "type": "mount" }, { "type": "time" }])), Unsupported, "/linux/namespaces/1"),
        (
            namespaces(json!([{ "type": "mount" }, { "type": "ipc", "path": "ns" }])),
            Spec,
            "/linux/namespaces/1/path",
        ),
        (
            with(
                "/linux",
                json!({
                    "namespaces": [{ "type": "mount" }, { "type": "user" }],
                    "gidMappings": [{ "containerID": 0, "hostID": 0, "size": 1 }],
                }),
            ),
            Spec,
            "/linux/uidMappings",
        ),
        (
            linux("uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1 }])),
            Spec,
            "/linux/uidMappings",
        ),
        (linux("uidMappings", json!([{ "containerID": 0, "hostID": 0 }])), Spec, "/linux/uidMappings/0/size"),
        (
            with(
                "/linux",
                json!({
                    "namespaces": [{ "type": "mount" }, { "type": "user" }],
                    "uidMappings": [
                        { "containerID": 0, "hostID": 1000, "size": 10 }, { "containerID": 9, "hostID": 2000, "size": 1 },
                    ],
                    "gidMappings": [{ "containerID": 0, "hostID": 0, "size": 1 }],
                }),
            ),
            Spec,
            "/linux/uidMappings",
        ),
        (
            with(
                "/linux",
                json!({
                    "namespaces": [{ "type": "mount" }, { "type": "user", "path": "/u" }],
                    "gidMappings": [{ "containerID": 0, "hostID": 0, "size": 1 }],
                }),
            ),
            Spec,
            "/linux/gidMappings",
        ),
        (linux("sysctl", json!({ "kernel.domainname": "x" })), Spec, "/linux/sysctl/kernel.domainname"),
        (linux("sysctl", json!({ "fs.mqueue.msg_max": "1" })), Spec, "/linux/sysctl/fs.mqueue.msg_max"),
        (linux("sysctl", json!({ "kernel.shmmax": "1" })), Spec, "/linux/sysctl/kernel.shmmax"),
        (
            linux("sysctl", json!({ "net/../kernel/panic": "1" })),
            Spec,
            "/linux/sysctl/net~1..~1kernel~1panic",
        ),
        (linux("sysctl", json!({ "vm.swappiness": "1" })), Spec, "/linux/sysctl/vm.swappiness"),
        (mount(json!({ "destination": "/x", "type": "proc", "options": ["tmpcopyup"] })), Spec, "/mounts/1"),
        (mount(json!({ "destination": "/x\0", "type": "tmpfs" })), Spec, "/mounts/1/destination"),
        (linux("rootfsPropagation", json!("sometimes")), Spec, "/linux/rootfsPropagation"),
        (linux("maskedPaths", json!(["/.."])), Spec, "/linux/maskedPaths/0"),
        (linux("maskedPaths", json!(["etc"])), Spec, "/linux/maskedPaths/0"),
        (linux("maskedPaths", json!(["/etc", "//."])), Spec, "/linux/maskedPaths/1"),
        (linux("readonlyPaths", json!(["/"])), Spec, "/linux/readonlyPaths/0"),
        (linux("mountLabel", json!("x".repeat(256))), Spec, "/linux/mountLabel"),
        (
            mount(json!({ "destination": "/x", "source": "/y", "options": ["bind", "idmap"] })),
            Spec,
            "/mounts/1",
        ),
        (mount(json!({ "destination": "/x", "type": "tmpfs", "options": ["idmap"] })), Spec, "/mounts/1"),
        (
            linux("devices", json!([{ "path": "/dev/x", "type": "c", "major": 1 }])),
            Spec,
            "/linux/devices/0/minor",
        ),
        (linux("devices", json!([{ "path": "/dev/x", "type": "x" }])), Spec, "/linux/devices/0/type"),
        (linux("devices", json!([{ "path": "/dev/..", "type": "p" }])), Spec, "/linux/devices/0"),
        (
            linux("devices", json!([{ "path": "/dev/console", "type": "c", "major": 5, "minor": 1 }])),
            Unsupported,
            "/linux/devices/0",
        ),
        (
            linux("devices", json!([{ "path": "/dev/x", "type": "c", "major": 4096, "minor": 0 }])),
            Spec,
            "/linux/devices/0/major",
        ),
        (with("/hooks/prestart", json!([{ "path": "hook" }])), Spec, "/hooks/prestart/0/path"),
        (with("/hooks/prestart", json!([{ "path": "/h", "timeout": 0 }])), Spec, "/hooks/prestart/0/timeout"),
        (with("/hooks/nosuch", json!([])), Spec, "/hooks/nosuch"),
        (
            json!({
                "ociVersion": "1.2.0",
                "root": { "path": "rootfs" },
                "linux": {},
                "hooks": { "poststop": [{ "path": "/h" }], "createRuntime": [{ "path": "/h" }] },
            }),
            Spec,
            "/hooks/createRuntime",
        ),
    ];
    for (config, code, pointer) in cases {
        if pointer.is_empty() {
            // A null is as absent, whatever its name.
            assert!(read_value(&config, &options(&[])).is_ok(), "{config}");
            continue;
        }
        let error = refusal(&config);
        assert_eq!((error.code, error.pointer.as_deref()), (code, Some(pointer)), "{error}");
    }
}

#[test]
fn what_depends_on_other_parts_is_told_in_the_words_of_a_config() {
    let binding = |options: Value| {
        with("/mounts", json!([{ "destination": "/x", "source": "/y", "options": options }]))
    };
    assert_eq!(
        refusal(&binding(json!(["bind", "idmap"]))).message,
        "mounts[0]: without mappings of its own a mount takes those of the container's user namespace, and there is none"
    );
    assert_eq!(
        refusal(&with("/linux/maskedPaths", json!(["/"]))).message,
        "linux.maskedPaths[0]: / is the root itself; root.readonly makes that read-only"
    );
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let text = minimal().to_string().replacen('{', "{\"linux\":{\"maskedPaths\":[\"/proc/kcore\"]},", 1);
    for ignore in [&[][..], &["linux"]] {
        let error = read(text.as_bytes(), &options(ignore)).unwrap_err();
        assert_eq!((error.code, error.pointer.as_deref()), (ErrorCode::Spec, Some("/linux")), "{error}");
    }
}

#[test]
fn without_a_mount_namespace_the_plan_warns() {
    let warnings = |linux: Value, ignore: &[&str]| -> Vec<String> {
        let config = read_value(&with("/linux", linux), &options(ignore)).unwrap();
        Plan::new(&config.rootfs).unwrap().warnings.into_iter().map(|warning| warning.code).collect()
    };
    let joined = json!({ "namespaces": [{ "type": "mount", "path": "/proc/1/ns/mnt" }] });
    for linux in [json!({}), json!({ "namespaces": [] }), joined] {
        assert_eq!(warnings(linux, &[]), ["no-mount-namespace"]);
    }
    let with_one = json!({ "namespaces": [{ "type": "mount" }] });
    assert_eq!(warnings(with_one.clone(), &[]), [""; 0]);
    assert_eq!(warnings(with_one, &["linux.namespaces"]), ["ignored-field", "no-mount-namespace"]);
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    for text in ["", "{", "[]", "{\"ociVersion\": 1.2.0}", "null"] {
        assert_eq!(read(text.as_bytes(), &options(&[])).unwrap_err().code, ErrorCode::Spec, "{text}");
    }
    let error = read(b"{\n  \"a\": \xff\n}", &options(&[])).unwrap_err();
    assert!(error.message.contains("line 2"), "{error}");
}

#[test]
fn numbers_of_64_bits_are_exact_and_the_double_of_the_largest_is_it() {
    let limit = |number: &str| {
        let text = minimal().to_string().replacen(
            '{',
            &format!(
                "{{\"process\":{{\"args\":[\"sh\"],\"cwd\":\"/\",\"rlimits\":[{{\"type\":\"RLIMIT_CORE\",\"soft\":0,\"hard\":{number}}}]}},"
            ),
            1,
        );
        read(text.as_bytes(), &options(&[])).map(|config| config.process.unwrap().rlimits[0].hard)
    };
    assert_eq!(limit("18446744073709551615").unwrap(), u64::MAX);
    assert_eq!(limit("18446744073709551614").unwrap(), u64::MAX - 1);
    assert_eq!(limit("9007199254740993").unwrap(), 9_007_199_254_740_993);
    assert_eq!(limit("18446744073709552000").unwrap(), u64::MAX);
    assert_eq!(
        limit("18446744073709555000").unwrap_err().pointer.as_deref(),
        Some("/process/rlimits/0/hard")
    );
    assert!(limit("1e3").is_err());
}

#[test]
fn sources_and_destinations_below_the_root_directory_are_in_the_tree() {
    let bind = |source: &str, destination: &str| json!({ "destination": destination, "source": source, "options": ["bind"] });
    let config = with(
        "/mounts",
        json!([
            bind("/b/rootfs/data", "/b/rootfs/mnt"),
            bind("rootfs/./data", "/mnt"),
            bind("other", "/other"),
            bind("/srv", "/b/rootfs2"),
        ]),
    );
    let config = read_value(&config, &options(&[])).unwrap();
    let sources: Vec<&BindSource> = mount_kinds(&config)
        .into_iter()
        .map(|kind| match kind {
            MountKind::Bind { source, .. } => source,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        sources,
        [
            &BindSource::InRoot("/data".into()),
            &BindSource::InRoot("/data".into()),
            &BindSource::Host("/b/other".into()),
            &BindSource::Host("/srv".into()),
        ]
    );
    let destinations: Vec<String> =
        config.rootfs.content.iter().map(|content| content.destination().to_string()).collect();
    assert_eq!(destinations, ["/mnt", "/mnt", "/other", "/b/rootfs2"]);
}

#[test]
fn a_new_user_namespace_without_mappings_has_the_caller_as_its_root() {
    let config = with("/linux/namespaces", json!([{ "type": "mount" }, { "type": "user" }]));
    assert_eq!(read_value(&config, &options(&[])).unwrap().rootfs.namespaces.user, UserNamespace::Caller);
}

#[test]
fn the_bundle_itself_can_be_the_root() {
    let config = read_value(&with("/root/path", json!(".")), &options(&[])).unwrap();
    assert_eq!(config.rootfs.root, Root::Directory("/b".into()));
    let config = read_value(&with("/root/path", json!("./a//b/")), &options(&[])).unwrap();
    assert_eq!(config.rootfs.root, Root::Directory("/b/a/b".into()));
}

#[test]
fn nothing_is_made_in_dev_where_a_bind_covers_it() {
    let device = json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]);
    let mut config = with("/linux/devices", device);
    assert_eq!(read_value(&config, &options(&[])).unwrap().rootfs.devices.len(), 1);
    config["mounts"] = json!([{ "destination": "/dev/", "source": "/dev", "options": ["rbind"] }]);
    let rootfs = read_value(&config, &options(&[])).unwrap().rootfs;
    assert!(!rootfs.dev && rootfs.devices.is_empty());
    assert_eq!(rootfs.warnings[0].code, "device-not-made");
}

#[test]
fn what_the_caller_names_is_taken_as_absent() {
    let mut config = with("/hostname", json!("box"));
    config["mounts"] =
        json!([{ "destination": "/a", "type": "tmpfs" }, { "destination": "/b", "type": "tmpfs" }]);
    config["some.thing"] = json!({ "else": 1 });
    let Config { rootfs, .. } =
        read_value(&config, &options(&["hostname", "/mounts/0", "some.thing"])).unwrap();
    assert_eq!(rootfs.hostname, None);
    assert_eq!(rootfs.content.len(), 1);
    let messages: Vec<_> = rootfs.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "hostname is ignored, as asked",
            "some.thing is ignored, as asked",
            "mounts[0] is ignored, as asked",
        ]
    );
    let error = read_value(&config, &options(&["root"])).unwrap_err();
    assert_eq!(error.pointer.as_deref(), Some("/some.thing"));
}

#[test]
fn without_a_root_it_is_an_empty_one_if_the_caller_says_so() {
    let config = with("/root", json!(null));
    let options = ReadOptions { expect_root: false, ..options(&[]) };
    assert!(matches!(read_value(&config, &options).unwrap().rootfs.root, Root::Empty { .. }));
}

/// What is written, when it is read.
pub(super) fn again(config: &Config) -> Result<Config> {
    let written = write(&config.rootfs, config.process.as_ref())?;
    let mut read = read_value(&written, &options(&[]))?;
    read.rootfs.warnings.clone_from(&config.rootfs.warnings);
    Ok(read)
}

#[test]
fn what_runc_writes_comes_back() {
    let config = read_value(&runc_spec(), &options(&[])).unwrap();
    assert_eq!(again(&config).unwrap(), config);
}

type Change = fn(&mut RootfsSpec);

#[test]
fn what_oci_has_no_words_for_is_named() {
    let base = || {
        let mut rootfs = RootfsSpec::new(Root::Directory("/r".into()));
        rootfs.namespaces.user = UserNamespace::None;
        rootfs.dev = true;
        rootfs
    };
    write(&base(), None).unwrap();
    let cases: [(&str, Change); 8] = [
        ("root:", |rootfs| rootfs.root = Root::Empty { size: None, mode: 0o755 }),
        ("root:", |rootfs| rootfs.root = Root::Directory(PathBytes::new(*b"/r\xff"))),
        ("readonly:", |rootfs| rootfs.readonly = Some(ReadonlyRoot { recursive: true })),
        ("mask:", |rootfs| rootfs.masks.push(Mask { path: "/x".into(), missing: MissingMask::Error })),
        ("namespaces.user:", |rootfs| rootfs.namespaces.user = UserNamespace::UnlessPrivileged),
        ("no dev():", |rootfs| rootfs.dev = false),
        ("mounts[0]:", |rootfs| {
            let mut mount = defaults::proc();
            mount.kind = MountKind::Bind {
                source: BindSource::Fd { index: 0, path: "/x".into() },
                recursive: true,
                optional: false,
                within: None,
            };
            rootfs.add(mount);
        }),
        ("mounts[0]:", |rootfs| {
            let mut mount = defaults::proc();
            mount.kind = MountKind::Bind {
                source: BindSource::Host("/x".into()),
                recursive: true,
                optional: true,
                within: None,
            };
            rootfs.add(mount);
        }),
    ];
    for (name, change) in cases {
        let mut rootfs = base();
        change(&mut rootfs);
        let error = write(&rootfs, None).unwrap_err();
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert!(error.message.starts_with(name), "{error}");
    }
}

#[test]
fn a_source_on_the_host_below_the_root_directory_is_not_taken_for_one_in_the_tree() {
    let mut rootfs = RootfsSpec::new(Root::Directory("/r".into()));
    rootfs.namespaces.user = UserNamespace::None;
    rootfs.dev = true;
    let mut mount = defaults::filesystem("/r/x", "tmpfs", attr::RDONLY, &[]);
    rootfs.add(mount.clone());
    // A destination that looks like it keeps its place.
    let config = Config { rootfs, process: None };
    let mut read = again(&config).unwrap();
    read.rootfs.bundle = None;
    assert_eq!(read, config);
    let Config { mut rootfs, .. } = config;
    mount.kind = MountKind::Bind {
        source: BindSource::Host("/r/data".into()),
        recursive: true,
        optional: false,
        within: None,
    };
    mount.attributes = crate::options::Attributes::default();
    rootfs.add(mount);
    assert!(write(&rootfs, None).unwrap_err().message.starts_with("mounts[1]:"));
}

/// Any JSON, of names that mean something and others.
fn any_json() -> impl Strategy<Value = Value> {
    let names: Vec<String> = FIELDS
        .iter()
        .flat_map(|field| field.path.split(['.', '[']))
        .map(|name| name.trim_matches(']').to_owned())
        .collect();
    let name = proptest::sample::select(names);
    let words: Vec<&str> =
        vec!["1.2.0", "mount", "user", "/", "/b/rootfs", "bind", "CAP_KILL", "rslave", "", "a=b", "\0"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(words).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_the_reader_panic(value in any_json()) {
        let _ = read_value(&value, &options(&[]));
    }

    #[test]
    fn no_json_in_place_of_a_part_makes_the_reader_panic(
        value in any_json(),
        pointer in proptest::sample::select(vec![
            "/root", "/mounts", "/mounts/0", "/mounts/0/options", "/process", "/process/user", "/process/rlimits",
            "/process/capabilities", "/hooks", "/hooks/prestart/0", "/annotations", "/linux", "/linux/namespaces",
            "/linux/devices", "/linux/devices/0", "/linux/uidMappings", "/linux/maskedPaths", "/linux/sysctl",
        ]),
    ) {
        let mut config = runc_spec();
        put(&mut config, pointer, value);
        if let Err(error) = read_value(&config, &options(&[])) {
            // What it is about is there, or is what is missing.
            let pointer = error.pointer.clone().unwrap_or_default();
            let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            prop_assert!(config.pointer(parent).is_some(), "{error:?}");
        }
    }
}

#[test]
fn an_idmapped_bind_and_an_overlay_come_back_as_they_were() {
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mut config = with(
        "/mounts",
        json!([
            { "destination": "/y", "source": "/y", "options": ["rbind", "ridmap"], "uidMappings": mapping, "gidMappings": mapping },
            { "destination": "/o", "type": "overlay", "options": ["lowerdir=/a\\:b:c", "upperdir=/u\\,", "workdir=/w", "xino=off"] },
            { "destination": "/t", "type": "tmpfs", "options": ["tmpcopyup", "size=4096"] },
        ]),
    );
    let read = read_value(&config, &options(&[])).unwrap().rootfs;
    let Content::Mount(mount) = &read.content[1] else { panic!("{:?}", read.content[1]) };
    let MountKind::Overlay(overlay) = &mount.kind else { panic!("{:?}", mount.kind) };
    assert_eq!(overlay.lower, ["/a:b".into(), "/b/c".into()], "a relative one is taken from the bundle");
    let written = write(&read, None).unwrap();
    assert_eq!(read_value(&written, &options(&[])).unwrap().rootfs, read);
    config["mounts"][0]["gidMappings"].take();
    assert_eq!(refusal(&config).pointer.as_deref(), Some("/mounts/0/gidMappings"));
}

#[test]
fn namespaces_are_new_joined_or_the_callers() {
    let read = |list: Value| read_value(&with("/linux/namespaces", list), &options(&[])).unwrap().rootfs;
    assert_eq!(read(json!([])).namespaces.mount, Namespace::Inherit);
    let joined = read(json!([
        { "type": "mount", "path": "/m" }, { "type": "user", "path": "/u" }, { "type": "pid", "path": "/p" },
    ]));
    assert_eq!(joined.namespaces.mount, Namespace::Path("/m".into()));
    assert_eq!(joined.namespaces.user, UserNamespace::Path("/u".into()));
    assert_eq!(joined.namespaces.pid, Namespace::Path("/p".into()));
    assert_eq!(read_value(&write(&joined, None).unwrap(), &options(&[])).unwrap().rootfs, joined);
}
