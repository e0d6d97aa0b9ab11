//! Random input for what reads bytes of others: frames, option words and OCI configs. Beginnings are in `tests/corpus`, and
//! what was found once goes there. The resolver has its own, beside it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads its own corpus")]

#[path = "support/random.rs"]
#[allow(clippy::unwrap_used, missing_docs, unreachable_pub)]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};

use random::{Random, for_seeds};
use rootfs::error::Error;
use rootfs::oci::{ReadOptions, read, write};
use rootfs::options::{WORDS, parse};
use rootfs::plan::Plan;
use rootfs::protocol::{self, Hello, Kind, Payload, PayloadRest, Report, Spare, Start, TakenDown};
use rootfs::spec::{Root, RootfsSpec, UserNamespace};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Changes bytes, cuts, repeats, and puts pieces of one into another.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let other = random.pick(corpus);
                let from = random.below(other.len());
                let piece = &other[from..(from + random.below(40)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                let end = (at + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ if words.is_empty() => {
                // A large number, as a length is encoded.
                bytes.splice(at..at, [0xff; 9].into_iter().take(1 + random.below(9)));
            }
            _ => {
                let word = *random.pick(words);
                let end = (at + random.below(12)).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
        }
    }
    bytes
}

/// Runs one case and says with which seed it failed.
fn case(seed: u64, input: &dyn std::fmt::Debug, work: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(work)).is_ok(), "ROOTFS_FUZZ_SEED={seed}: {input:?}");
}

fn round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = protocol::decode::<T>(bytes) {
        let again: T = protocol::decode(&protocol::encode(&value)).expect("what was encoded is decoded");
        assert_eq!(again, value);
    }
}

#[test]
fn frames() {
    let config = read(&corpus("config")[0], &options()).unwrap();
    let rest = PayloadRest {
        process: config.process.clone(),
        usual: config.process,
        verify: true,
        report_steps: true,
        level: None,
        privileged: true,
    };
    let mut spec = config.rootfs;
    spec.namespaces.user = UserNamespace::None;
    let plan = Plan::new(&spec).unwrap();
    let bodies = [
        protocol::encode(&Payload { plan, rest }),
        protocol::encode(&Hello {
            pid: 1,
            release: "0".into(),
            uid: 0,
            gid: 0,
            groups: vec![1, 2],
            capabilities: 7,
        }),
        protocol::encode(&Report::default()),
        protocol::encode(&TakenDown::default()),
        Vec::new(),
    ];
    let kinds = [Kind::Hello, Kind::Start, Kind::Spawn, Kind::Failed, Kind::Begin];
    let frames: Vec<Vec<u8>> =
        bodies.iter().flat_map(|body| kinds.map(|kind| protocol::frame_bytes(kind, 1, body, 0))).collect();
    let cases = for_seeds(|seed, random| {
        let frame = mutate(random, &frames, &[]);
        let body = mutate(random, &bodies, &[]);
        case(seed, &(&frame, &body), || {
            let whole = protocol::parse_frame(&frame, Some(0)).map_or(&[][..], |(_, _, body)| body);
            assert!(whole.len() <= protocol::MAX_BODY);
            for bytes in [whole, &body] {
                round::<Payload>(bytes);
                round::<Start>(bytes);
                round::<Hello>(bytes);
                round::<Spare>(bytes);
                round::<Report>(bytes);
                round::<TakenDown>(bytes);
                round::<Error>(bytes);
                protocol::build_of_hello(bytes);
            }
        });
    });
    assert!(cases > 100, "{cases}");
}

#[test]
fn option_words() {
    let lists = corpus("options");
    let known: Vec<&[u8]> = WORDS.iter().map(|word| word.name.as_bytes()).collect();
    let cases = for_seeds(|seed, random| {
        let text = String::from_utf8_lossy(&mutate(random, &lists, &known)).into_owned();
        let words: Vec<&str> = text.trim_end().split(',').collect();
        case(seed, &words, || {
            let Ok(parsed) = parse(&words) else { return };
            let attributes = &parsed.attributes;
            assert_eq!(attributes.set & attributes.clear, 0, "a flag is set and cleared");
            assert_eq!(attributes.set_recursive & attributes.clear_recursive, 0, "a flag is set and cleared");
            // What is no word of ours goes to the filesystem, each of them.
            let others = words.iter().filter(|word| rootfs::options::find(word).is_none()).count();
            assert_eq!(parsed.data.len(), others);
        });
    });
    assert!(cases > 100, "{cases}");
}

fn options() -> ReadOptions {
    ReadOptions { ignore: Vec::new(), expect_root: true, bundle: "/bundle".into(), has_bundle: true }
}

#[test]
fn configs() {
    let texts = corpus("config");
    let words: Vec<&[u8]> = [
        "null",
        "-1",
        "4294967296",
        "1e9",
        "0.5",
        "\"\"",
        "\"/\"",
        "\"..\"",
        "[]",
        "{}",
        "true",
        "\"\\u0000\"",
        ",",
        "\":",
        "\"tmpfs\"",
        "\"rbind\"",
        "\"path\":\"/proc\"",
        "\"type\":\"user\"",
        "\"hostID\":0,",
    ]
    .map(str::as_bytes)
    .to_vec();
    let cases = for_seeds(|seed, random| {
        let text = mutate(random, &texts, &words);
        case(seed, &String::from_utf8_lossy(&text), || {
            let Ok(config) = read(&text, &options()) else { return };
            let _ = Plan::new(&config.rootfs);
            let again = |rootfs: &RootfsSpec| {
                let written = write(rootfs, config.process.as_ref()).ok()?;
                Some(read(written.to_string().as_bytes(), &options()).expect("what is written is read"))
            };
            if matches!(config.rootfs.root, Root::Directory(_))
                && let Some(first) = again(&config.rootfs)
                && let Some(second) = again(&first.rootfs)
            {
                assert_eq!(second.rootfs, first.rootfs);
            }
        });
    });
    assert!(cases > 100, "{cases}");
}
