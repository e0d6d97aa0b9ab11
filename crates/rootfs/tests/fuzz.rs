//! Random input for what reads bytes of others: frames, option words, OCI configs and paths. Beginnings, and what the fuzz
//! targets of `fuzz/` have found, are in `tests/corpus`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test makes and reads its own files")]

#[path = "support/checks.rs"]
#[allow(clippy::unwrap_used, missing_docs, unreachable_pub)]
mod checks;
#[path = "support/maker.rs"]
#[allow(clippy::unwrap_used, missing_docs, unreachable_pub)]
mod maker;
#[path = "support/random.rs"]
#[allow(clippy::unwrap_used, missing_docs, unreachable_pub)]
mod random;
#[path = "support/resolver.rs"]
#[allow(clippy::unwrap_used, missing_docs, unreachable_pub)]
mod resolver;

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use random::{Random, for_seeds};
use resolver::{Compared, Trees};
use rootfs::options::WORDS;

fn directory() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn corpus(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap()
}

fn corpora(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory().join(name)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
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
fn case<T>(seed: u64, input: &[u8], work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| panic!("ROOTFS_FUZZ_SEED={seed}: {}", input.escape_ascii()))
}

/// Each of the corpus as it is, and then what can be made of them.
fn check(corpus: &[Vec<u8>], words: &[&[u8]], work: impl Fn(&[u8])) {
    for input in corpus {
        case(0, input, || work(input));
    }
    for_seeds(|seed, random| {
        let input = mutate(random, corpus, words);
        case(seed, &input, || work(&input));
    });
}

#[test]
fn frames() {
    let mut inputs = checks::bodies(&corpus("config/runc-spec.json"));
    inputs.extend(checks::frames(&inputs));
    inputs.extend(corpora("frames"));
    check(&inputs, &[], checks::frame);
}

#[test]
fn option_words() {
    let known: Vec<&[u8]> = WORDS.iter().map(|word| word.name.as_bytes()).collect();
    check(&corpora("options"), &known, checks::option_words);
}

#[test]
fn configs() {
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
    check(&corpora("config"), &words, checks::config);
}

#[test]
fn paths() {
    let trees = Trees::new("paths");
    let words =
        ["d ", "f ", "l ", "= ", "- ", "! ", "D ", "F ", "P ", "\n", "../", "/", "@", "."].map(str::as_bytes);
    check(&corpora("resolver"), &words, |text| {
        trees.run(text);
    });
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "l"];

fn path(random: &mut Random) -> String {
    if random.below(12) == 0 {
        return "@".to_owned();
    }
    let mut path = ["", "/", "//", "./", "/.."][random.below(5)].to_owned();
    for number in 0..=random.below(5) {
        if number > 0 || path == "/.." {
            path.push_str(["/", "/", "/", "//", "/./"][random.below(5)]);
        }
        path.push_str(if random.below(4) == 0 { ".." } else { random.pick::<&str>(&NAMES) });
    }
    if random.below(8) == 0 {
        path.push('/');
    }
    path
}

/// A tree of a few names, and then paths of these names.
fn tree_and_paths(random: &mut Random, verbs: &[&str]) -> String {
    let mut text = String::new();
    let mut directories = vec![String::new()];
    for _ in 0..3 + random.below(14) {
        let name = format!("{}{}", random.pick(&directories), random.pick(&NAMES));
        match random.below(5) {
            0 => writeln!(text, "f {name}"),
            1 | 2 => {
                directories.push(format!("{name}/"));
                writeln!(text, "d {name}")
            }
            _ => writeln!(text, "l {name} {}", path(random)),
        }
        .unwrap();
    }
    for _ in 0..20 {
        writeln!(text, "{} {}", random.pick(verbs), path(random)).unwrap();
    }
    text
}

/// How much there is to compare in random trees.
fn compare(name: &str, verbs: &[&str]) -> (u64, Compared) {
    let trees = Trees::new(name);
    let mut all = Compared::default();
    let cases = for_seeds(|seed, random| {
        let text = tree_and_paths(random, verbs);
        let compared = case(seed, text.as_bytes(), || trees.run(text.as_bytes()));
        all.found += compared.found;
        all.made += compared.made;
    });
    (cases, all)
}

#[test]
fn the_emulation_finds_what_the_kernel_finds() {
    let (cases, Compared { found, .. }) = compare("resolve", &["=", "-", "!"]);
    assert!(found > cases, "{cases} {found}");
}

#[test]
fn what_is_made_is_where_the_kernel_finds_it() {
    let (cases, Compared { made, .. }) = compare("make", &["D", "F", "P"]);
    assert!(made > cases, "{cases} {made}");
}
