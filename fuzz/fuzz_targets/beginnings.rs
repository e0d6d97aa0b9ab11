//! Writes what a target begins with, besides the corpus: `ROOTFS_FUZZ_TARGET=TARGET beginnings DIRECTORY` makes the files
//! `words`, a dictionary, and `inputs/*`. They are made of the code's own tables, so they are never behind it.
#![no_main]

use std::path::Path;

use rootfs::oci::fields::FIELDS;
use rootfs::options::WORDS;
use rootfs_fuzz::checks;

const CONFIG: &[u8] = include_bytes!("../../crates/rootfs/tests/corpus/config/runc-spec.json");

fn words(target: &str) -> Vec<String> {
    let mut words: Vec<String> = match target {
        "options" => WORDS.iter().map(|word| format!("{},", word.name)).collect(),
        "config" => {
            let names =
                FIELDS.iter().flat_map(|field| field.path.split(['.', '[', ']'])).filter(|name| *name != "*");
            let values =
                ["bind", "tmpfs", "proc", "overlay", "user", "mount", "pid", "/", "..", "/proc", "a"];
            let options = WORDS.iter().map(|word| word.name);
            let others =
                ["null", "-1", "4294967295", "4294967296", "1e9", "0.5", "true", "[]", "{}", "\\u0000"];
            let quoted = names.chain(values).chain(options).map(|text| format!("\"{text}\""));
            quoted.chain(others.map(str::to_owned)).collect()
        }
        "resolver" => "dfpl=-!DFP".chars().map(|verb| format!("\n{verb} ")).collect(),
        _ => WORDS.iter().map(|word| word.name.to_owned()).collect(),
    };
    words.sort();
    words.dedup();
    words
}

fn write() {
    let target = std::env::var("ROOTFS_FUZZ_TARGET").expect("ROOTFS_FUZZ_TARGET is set");
    let directory = std::env::args().nth(1).expect("a directory is given");
    let directory = Path::new(&directory);
    let inputs = directory.join("inputs");
    std::fs::create_dir_all(&inputs).unwrap();
    let lines = words(&target).into_iter().map(|word| {
        let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{bytes}\"\n")
    });
    std::fs::write(directory.join("words"), lines.collect::<String>()).unwrap();
    if target == "frames" {
        let bodies = checks::bodies(CONFIG);
        for (number, bytes) in checks::frames(&bodies).into_iter().chain(bodies).enumerate() {
            std::fs::write(inputs.join(number.to_string()), bytes).unwrap();
        }
    }
}

// As a target, since it is built as they are: only libFuzzer has what the instrumentation asks for.
libfuzzer_sys::fuzz_target!(init: write(), |_bytes: &[u8]| {});
