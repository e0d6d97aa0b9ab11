//! Configs that say, in all combinations, whatever a config can say: what is written says what was read, and the plan keeps
//! the order.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::read::read_value;
use super::tests::{again, options};
use super::{Config, write};
use crate::plan::{Action, Plan};
use crate::process::{CAPABILITIES, RLIMITS};
use crate::spec::{Content, Hook, HookPoint};

const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

/// Lines that don't overlap, each with a gap before it.
fn mappings() -> impl Strategy<Value = Value> {
    vec((0_u32..3, 0_u32..1000, 1_u32..1000), 1..4).prop_map(|lines| {
        let (mut inside, mut outside) = (0, 0);
        let line = |(gap, other, size)| {
            let line = json!({ "containerID": inside + gap, "hostID": outside + other, "size": size });
            (inside, outside) = (inside + gap + size, outside + other + size);
            line
        };
        lines.into_iter().map(line).collect()
    })
}

/// A path that needs no other, with names that have to be quoted elsewhere.
fn path() -> impl Strategy<Value = String> {
    "(/[a-c:, \\\\é]{1,2}){1,3}"
}

fn any_mount() -> impl Strategy<Value = Value> {
    let known: Vec<&str> = crate::options::WORDS
        .iter()
        .map(|word| word.name)
        .filter(|name| crate::options::parse(&[name]).is_ok())
        .chain(["size=64k", "mode=755", "gid=5", "newinstance"])
        .collect();
    let source = prop_oneof!["/src(/[a-b]){0,2}", Just("/b/rootfs/x".to_owned()), Just("rel".to_owned())];
    let fstype = select(vec!["tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "none", "ext4"]);
    let plain = ("(/[a-c]){1,3}", option::of(source), option::of(fstype), vec(select(known), 0..6)).prop_map(
        |(destination, source, fstype, words)| json!({ "destination": destination, "source": source, "type": fstype, "options": words }),
    );
    let mapped = (path(), path(), select(vec!["idmap", "ridmap"]), mappings(), mappings()).prop_map(
        |(destination, source, word, uids, gids)| {
            json!({
                "destination": destination, "source": source, "options": ["rbind", word],
                "uidMappings": uids, "gidMappings": gids,
            })
        },
    );
    let escaped = |path: &String| path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let overlay = (path(), vec(path(), 1..4), option::of((path(), path())), any::<bool>()).prop_map(
        move |(destination, lower, upper, volatile)| {
            let lower: Vec<String> = lower.iter().map(escaped).collect();
            let mut words = vec![format!("lowerdir={}", lower.join(":"))];
            if let Some((upper, work)) = &upper {
                words.extend([format!("upperdir={}", escaped(upper)), format!("workdir={}", escaped(work))]);
                words.extend(volatile.then(|| "volatile".to_owned()));
            }
            json!({ "destination": destination, "type": "overlay", "options": words })
        },
    );
    prop_oneof![6 => plain, 1 => mapped, 1 => overlay].prop_filter("words can contradict the type", |mount| {
        let config =
            json!({ "ociVersion": "1.2.0", "root": { "path": "rootfs" }, "mounts": [mount], "linux": {} });
        read_value(&config, &options(&[])).is_ok()
    })
}

fn process() -> impl Strategy<Value = Value> {
    let id = prop_oneof![0_u32..3000, Just(u32::MAX - 1)];
    let user = (id.clone(), id.clone(), vec(id, 0..3), option::of(0_u32..0o1000));
    let limits = subsequence(RLIMITS.to_vec(), 0..4).prop_flat_map(|kinds| {
        let count = kinds.len();
        // What JavaScript's numbers hold, and no limit.
        let limit = prop_oneof![0_u64..1 << 53, Just(u64::MAX)];
        (Just(kinds), vec((limit.clone(), limit), count))
    });
    let bits = [any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()];
    let label = || option::of(select(vec!["unconfined", "u:r:t:s0:c1,c2"]));
    (
        user,
        limits,
        bits,
        option::of(-1000_i32..1001),
        any::<bool>(),
        label(),
        label(),
        path(),
        option::of(vec("[A-Z]{1,3}=[a-z =]{0,3}", 0..3)),
    )
        .prop_map(|(user, limits, bits, score, no_new_privileges, profile, label, cwd, env)| {
            let set = |bits: u64| -> Vec<String> {
                let numbered = CAPABILITIES.iter().enumerate();
                numbered
                    .filter(|(number, _)| bits & 1 << number != 0)
                    .map(|(_, name)| format!("CAP_{name}"))
                    .collect()
            };
            let [bounding, permitted, inheritable, part] = bits;
            let limits: Vec<Value> = limits.0.iter().zip(limits.1).map(|((name, _), (one, other))| {
                json!({ "type": name, "soft": one.min(other), "hard": one.max(other) })
            }).collect();
            json!({
                "args": ["sh", "-c", "é"], "cwd": cwd, "env": env, "rlimits": limits,
                "user": { "uid": user.0, "gid": user.1, "additionalGids": user.2, "umask": user.3 },
                "capabilities": {
                    "bounding": set(bounding), "permitted": set(permitted), "inheritable": set(inheritable),
                    "effective": set(permitted & part), "ambient": set(permitted & inheritable & part),
                },
                "noNewPrivileges": no_new_privileges, "oomScoreAdj": score,
                "apparmorProfile": profile, "selinuxLabel": label,
            })
        })
}

fn device() -> impl Strategy<Value = Value> {
    let place = prop_oneof!["/dev/[a-c]", "/other/[a-c]"];
    (
        place,
        select(vec!["c", "b", "u", "p"]),
        0_u32..4096,
        0_u32..1 << 20,
        option::of(0_u32..0o10000),
        0_u32..9,
        0_u32..9,
    )
        .prop_map(|(path, kind, major, minor, mode, uid, gid)| {
            let mut device = json!({ "path": path, "type": kind, "fileMode": mode, "uid": uid, "gid": gid });
            if kind != "p" {
                device["major"] = major.into();
                device["minor"] = minor.into();
            }
            device
        })
}

fn hook() -> impl Strategy<Value = Value> {
    let words = || option::of(vec("[a-z= ]{0,3}", 0..3));
    (path(), words(), words(), option::of(1_u32..100)).prop_map(
        |(path, args, env, timeout)| json!({ "path": path, "args": args, "env": env, "timeout": timeout }),
    )
}

/// Whether a kind of namespace is the caller's, a new one, or one that exists.
fn namespaces() -> impl Strategy<Value = Map<String, Value>> {
    let kinds = ["mount", "user", "pid", "network", "ipc", "uts", "cgroup"].map(str::to_owned);
    subsequence(kinds.to_vec(), 0..=7)
        .prop_flat_map(|kinds| {
            let count = kinds.len();
            (Just(kinds), vec(option::weighted(0.2, path()), count))
        })
        .prop_map(|(kinds, paths)| {
            kinds.into_iter().zip(paths).map(|(kind, path)| (kind, path.into())).collect()
        })
}

type Lists = (Vec<Value>, Vec<Value>, Vec<String>, Vec<String>, Vec<(usize, Value)>);

/// What fits the namespaces of the rest.
fn compose(
    namespaces: &Map<String, Value>,
    (root, readonly, propagation): (&str, Option<bool>, Option<&str>),
    (mounts, devices, masked, readonly_paths, hooks): Lists,
    process: Option<&Value>,
    (name, mappings, annotations): (&str, [Value; 2], std::collections::BTreeMap<String, String>),
) -> Value {
    let own = |kind: &str| namespaces.contains_key(kind);
    let own_mounts = namespaces.get("mount") == Some(&Value::Null);
    let list: Vec<Value> =
        namespaces.iter().map(|(kind, path)| json!({ "type": kind, "path": path })).collect();
    let mut sysctl = Map::new();
    for (kind, parameter) in
        [("network", "net.ipv4.ip_forward"), ("ipc", "kernel/msgmax"), ("uts", "kernel.domainname")]
    {
        if own(kind) {
            sysctl.insert(parameter.to_owned(), name.into());
        }
    }
    let mut config = json!({
        "ociVersion": "1.0.2-dev",
        "root": { "path": root, "readonly": readonly },
        "mounts": mounts, "process": process, "annotations": annotations,
        "linux": {
            "namespaces": list, "rootfsPropagation": propagation, "devices": devices, "sysctl": sysctl, "mountLabel": name,
        },
    });
    if own("uts") {
        config["hostname"] = name.into();
        config["domainname"] = name.into();
    }
    if own_mounts {
        config["linux"]["maskedPaths"] = masked.into();
        config["linux"]["readonlyPaths"] = readonly_paths.into();
    }
    if namespaces.get("user") == Some(&Value::Null) {
        let [uids, gids] = mappings;
        config["linux"]["uidMappings"] = uids;
        config["linux"]["gidMappings"] = gids;
    }
    for (point, hook) in hooks {
        let point = HookPoint::ALL[point];
        if own_mounts || !point.needs_attached_tree() {
            let list = &mut config["hooks"][point.name()];
            match list {
                Value::Array(list) => list.push(hook),
                other => *other = json!([hook]),
            }
        }
    }
    config
}

pub(super) fn any_config() -> impl Strategy<Value = Value> {
    let root = (
        select(vec!["rootfs", ".", "/r", "/b/rootfs"]),
        option::of(any::<bool>()),
        option::of(select(PROPAGATIONS.to_vec())),
    );
    let lists = (
        vec(any_mount(), 0..6),
        vec(device(), 0..3),
        vec("(/[a-c]){1,2}", 0..3),
        vec("(/[a-c]){1,2}", 0..3),
        vec((0_usize..6, hook()), 0..4),
    );
    let names =
        (select(vec!["", "box", "é"]), [mappings(), mappings()], btree_map("[a-z.]{1,6}", "\\PC{0,4}", 0..3));
    (namespaces(), root, lists, option::of(process()), names).prop_map(
        |(namespaces, root, lists, process, names)| {
            compose(&namespaces, root, lists, process.as_ref(), names)
        },
    )
}

/// The hooks in the order in which they run.
fn in_order(hooks: &[Hook]) -> Vec<&Hook> {
    HookPoint::ALL.iter().flat_map(|point| hooks.iter().filter(move |hook| hook.point == *point)).collect()
}

proptest! {
    #[test]
    fn what_is_written_says_what_was_read(config in any_config()) {
        let read = read_value(&config, &options(&[])).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let written = write(&read.rootfs, read.process.as_ref()).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let back = again(&read).unwrap();
        prop_assert_eq!(&back, &read);
        prop_assert_eq!(write(&back.rootfs, back.process.as_ref()).unwrap(), written);
        prop_assert_eq!(Plan::new(&back.rootfs).unwrap(), Plan::new(&read.rootfs).unwrap());
    }

    #[test]
    fn a_plan_keeps_the_order_given(config in any_config()) {
        let Config { rootfs, .. } = read_value(&config, &options(&[])).unwrap();
        let plan = Plan::new(&rootfs).unwrap();
        prop_assert_eq!(&plan, &Plan::new(&rootfs.clone()).unwrap());
        let mounts: Vec<&Content> = rootfs.content.iter().collect();
        let planned: Vec<Content> = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Mount { mount, .. } => Some(mount.clone().into()),
            _ => None,
        }).collect();
        prop_assert_eq!(planned.iter().collect::<Vec<_>>(), mounts);
        prop_assert_eq!(plan.hooks().collect::<Vec<_>>(), in_order(&rootfs.hooks));
        for pair in plan.steps.windows(2) {
            prop_assert!(pair[0].action.stage() <= pair[1].action.stage());
            prop_assert_eq!(pair[0].index + 1, pair[1].index);
        }
        // One more mount at the end moves none of the others.
        let mut more = rootfs.clone();
        more.add(crate::defaults::filesystem("/a/b/c/more", "tmpfs", 0, &[]));
        let longer = Plan::new(&more).unwrap();
        let mounts = |plan: &Plan| -> Vec<_> {
            plan.steps.iter().filter(|step| matches!(step.action, Action::Mount { .. })).map(|step| step.index).collect()
        };
        prop_assert!(mounts(&longer).starts_with(&mounts(&plan)));
    }
}
