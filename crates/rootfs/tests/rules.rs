//! Rules of docs/security.md that no lint can see: what may be written in which files, and nowhere else.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test reads the sources")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "these are our own files")]

use std::collections::BTreeSet;
use std::path::Path;

struct Rule {
    what: &'static str,
    words: &'static [&'static str],
    /// Where it may be, from the `crates` folder. Each of them must have it.
    files: &'static [&'static str],
}

const RULES: [Rule; 4] = [
    Rule {
        what: "a path is resolved from / or the working directory: sources of the host, the tops of this process, and \
            what is asked after the root is entered",
        words: &["CWD"],
        files: &[
            "rootfs-supervisor/src/first_process.rs",
            "rootfs-supervisor/src/unexecutable.rs",
            "rootfs/src/journal.rs",
            "rootfs/src/kernel/classic.rs",
            "rootfs/src/kernel/linux.rs",
            "rootfs/src/kernel/overlay.rs",
            "rootfs/src/kernel/staging.rs",
        ],
    },
    Rule {
        what: "many descriptors are closed, or marked: one function, and the child that executes the supervisor",
        words: &["SYS_close_range", "libc::close("],
        files: &["rootfs/src/kernel/process.rs", "rootfs/src/kernel/supervisor_process.rs"],
    },
    Rule {
        what: "a procfs is opened",
        words: &["ProcfsHandle::new", "ProcfsHandleBuilder"],
        files: &["rootfs/src/kernel/linux.rs"],
    },
    Rule {
        what: "the largest id is said",
        words: &["u32::MAX - 1", "0xffff_fffe", "4_294_967_294"],
        files: &["rootfs/src/spec.rs"],
    },
];

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs")
            && !["tests.rs", "_fuzz.rs", "_race.rs"].iter().any(|end| name.ends_with(end))
        {
            let text = std::fs::read_to_string(&path).unwrap();
            // Unit tests are last in a file.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let path = path.to_str().unwrap().rsplit_once("/crates/").unwrap().1.to_owned();
            found.push((path, lines.collect::<Vec<_>>().join("\n")));
        }
    }
}

#[test]
fn what_is_done_in_one_place_is_done_nowhere_else() {
    let mut code = Vec::new();
    for name in ["rootfs", "rootfs-supervisor", "rootfs-napi"] {
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src").canonicalize().unwrap(),
            &mut code,
        );
    }
    assert!(code.len() > 50);
    for rule in RULES {
        let found: BTreeSet<&str> = code
            .iter()
            .filter(|(_, text)| rule.words.iter().any(|word| text.contains(word)))
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(found, rule.files.iter().copied().collect(), "{}", rule.what);
    }
}
