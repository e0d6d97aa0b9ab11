//! The kernel's mount table as text; `proc_pid_mountinfo(5)`.

use crate::options::attr;
use crate::path::PathBytes;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mount's id, which is used again after it is gone.
    pub id: u64,
    /// The id of the mount it is on.
    pub parent_id: u64,
    /// What of the filesystem is its root.
    pub root: PathBytes,
    /// Where it is.
    pub destination: PathBytes,
    /// Its own flags.
    pub options: Vec<String>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// The filesystem's type.
    pub fstype: String,
    /// The filesystem's source.
    pub source: PathBytes,
    /// The superblock's options.
    pub super_options: Vec<String>,
}

impl Entry {
    /// The mount's flags as `MOUNT_ATTR_*` bits.
    pub fn attributes(&self) -> u64 {
        let has = |word: &str| self.options.iter().any(|option| option == word);
        let mut bits = 0;
        for (word, bit) in [
            ("ro", attr::RDONLY),
            ("nosuid", attr::NOSUID),
            ("nodev", attr::NODEV),
            ("noexec", attr::NOEXEC),
            ("noatime", attr::NOATIME),
            ("nodiratime", attr::NODIRATIME),
            ("nosymfollow", attr::NOSYMFOLLOW),
            ("idmapped", attr::IDMAP),
        ] {
            if has(word) {
                bits |= bit;
            }
        }
        if !has("noatime") && !has("relatime") {
            bits |= attr::STRICTATIME;
        }
        bits
    }
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBytes {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBytes::new(bytes)
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let words = |field: &[u8]| text(field).split(',').map(str::to_owned).collect();
    let id = text(fields.next()?).parse().ok()?;
    let parent_id = text(fields.next()?).parse().ok()?;
    let _device = fields.next()?;
    let root = unescape(fields.next()?);
    let destination = unescape(fields.next()?);
    let options = words(fields.next()?);
    let propagation = fields.by_ref().take_while(|field| *field != b"-").map(text).collect();
    let fstype = text(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = words(fields.next().unwrap_or_default());
    Some(Entry { id, parent_id, root, destination, options, propagation, fstype, source, super_options })
}

/// Every line that is one.
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.id, entry.parent_id), (36, 35));
        assert_eq!(entry.destination, PathBytes::from("/mnt 2"));
        assert_eq!(entry.propagation, ["shared:1", "master:2"]);
        assert_eq!((entry.fstype.as_str(), entry.super_options.len()), ("ext3", 2));
        assert_eq!(entry.attributes(), attr::NOATIME);
    }

    #[test]
    fn nonsense_gives_no_entries() {
        assert!(parse(b"\n1 2\nhello world\n").is_empty());
    }
}
