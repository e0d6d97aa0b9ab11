//! JSON values that know where they are, and the checks that say what was wanted there and what came.

use std::cell::RefCell;
use std::fmt;

use serde_json::{Map, Value};

use super::fields::{self, Treatment};
use crate::error::{Error, ErrorCode, Result};
use crate::origin::Location;
use crate::path::PathBytes;
use crate::plan::Warning;

/// What is known while a config is read.
pub(super) struct Context<'a> {
    /// Fields that the caller named.
    ignore: &'a [String],
    /// What the caller should know.
    warnings: RefCell<Vec<Warning>>,
    /// The fields that were asked for, by their names in the table.
    #[cfg(test)]
    pub(super) read: RefCell<std::collections::BTreeSet<&'static str>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(ignore: &'a [String]) -> Self {
        Self {
            ignore,
            warnings: RefCell::default(),
            #[cfg(test)]
            read: RefCell::default(),
        }
    }

    pub(super) fn take_warnings(&self) -> Vec<Warning> {
        self.warnings.take()
    }
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct Node<'a> {
    context: &'a Context<'a>,
    value: &'a Value,
    /// RFC 6901.
    pub(super) pointer: String,
    /// For people: `mounts[3].options`.
    pub(super) name: String,
    /// In the table: `mounts[].options`.
    path: String,
}

/// What a value is, shortly.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value} of type boolean"),
            Value::Number(number) => write!(f, "{number} of type number"),
            Value::String(text) => {
                let short: String = text.chars().take(100).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                write!(f, "'{}{dots}' of type string", short.escape_debug())
            }
            Value::Array(_) => f.write_str("an array"),
            Value::Object(_) => f.write_str("an object"),
        }
    }
}

/// Whether a value says nothing, like a field that isn't there.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

impl<'a> Node<'a> {
    /// The whole config.
    pub(super) fn top(context: &'a Context<'a>, value: &'a Value) -> Self {
        Self { context, value, pointer: String::new(), name: "the config".to_owned(), path: String::new() }
    }

    fn field(&self, key: &str, value: &'a Value) -> Self {
        let dotted = |before: &str| {
            if self.path.is_empty() { key.to_owned() } else { format!("{before}.{key}") }
        };
        Self {
            context: self.context,
            value,
            pointer: format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1")),
            name: dotted(&self.name),
            path: dotted(&self.path),
        }
    }

    /// Whether the caller named this, by its name or its pointer.
    fn is_ignored(&self) -> bool {
        self.context
            .ignore
            .iter()
            .any(|name| *name == self.path || *name == self.pointer || *name == self.name)
    }

    /// An error of a check that doesn't know of the config is about this value.
    pub(super) fn located(&self, mut error: Box<Error>) -> Box<Error> {
        error.message = format!("{}: {}", self.name, error.message);
        error.with_pointer(&self.pointer)
    }

    /// What the caller should know about this value.
    pub(super) fn warn(&self, code: &str, message: String) {
        let location = Location::pointer(&self.pointer);
        let warning = Warning { code: code.to_owned(), message, step: None, location };
        self.context.warnings.borrow_mut().push(warning);
    }

    /// Its place in the list that it is an element of.
    pub(super) fn place(&self) -> usize {
        self.pointer.rsplit('/').next().and_then(|place| place.parse().ok()).unwrap_or_default()
    }

    /// An error about this value.
    pub(super) fn error(&self, code: ErrorCode, message: impl fmt::Display) -> Box<Error> {
        Error::new(code, format!("{}: {message}", self.name)).with_pointer(&self.pointer)
    }

    /// The value makes no sense here.
    pub(super) fn wrong(&self, message: impl fmt::Display) -> Box<Error> {
        self.error(ErrorCode::Spec, message)
    }

    /// Another value was expected.
    pub(super) fn unexpected(&self, wanted: impl fmt::Display) -> Box<Error> {
        let message = format!("Expected {wanted} for {} but received {}", self.name, Shown(self.value));
        Error::new(ErrorCode::Spec, message).with_pointer(&self.pointer)
    }

    /// The value as it is.
    pub(super) fn verbatim(&self) -> Value {
        self.value.clone()
    }

    pub(super) fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.unexpected("boolean"))
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        let text = self.value.as_str().ok_or_else(|| self.unexpected("string"))?;
        if text.contains('\0') { Err(self.unexpected("string without NUL bytes")) } else { Ok(text) }
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        self.text().map(|text| text.as_bytes().to_vec())
    }

    pub(super) fn path(&self) -> Result<PathBytes> {
        match self.text()? {
            "" => Err(self.unexpected("path that is not empty")),
            text => Ok(text.into()),
        }
    }

    pub(super) fn absolute_path(&self) -> Result<PathBytes> {
        let path = self.path()?;
        if path.is_absolute() { Ok(path) } else { Err(self.unexpected("absolute path")) }
    }

    /// An integer in a range, both ends included. Nothing is rounded or wrapped.
    pub(super) fn integer(&self, min: i64, max: i64) -> Result<i64> {
        let number = self.value.as_i64().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| self.unexpected(format_args!("integer between {min} and {max}")))
    }

    pub(super) fn integer32(&self, min: u32, max: u32) -> Result<u32> {
        self.integer(min.into(), max.into()).map(|number| u32::try_from(number).unwrap_or(max))
    }

    /// A number of 64 bits. In JavaScript the largest is a double, which is greater by one.
    pub(super) fn unsigned64(&self) -> Result<u64> {
        const AS_DOUBLE: f64 = 18_446_744_073_709_551_616.0;
        let largest = || self.value.as_f64().filter(|number| *number == AS_DOUBLE).map(|_| u64::MAX);
        self.value
            .as_u64()
            .or_else(largest)
            .ok_or_else(|| self.unexpected("integer between 0 and 18446744073709551615"))
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T> {
        let text = self.text()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let list: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            self.unexpected(format_args!("one of {}", list.join(", ")))
        })
    }

    /// The elements of an array, without those that the caller named.
    pub(super) fn items(&self) -> Result<Vec<Self>> {
        let items = self.value.as_array().ok_or_else(|| self.unexpected("array"))?;
        let nodes = items.iter().enumerate().map(|(index, value)| Self {
            context: self.context,
            value,
            pointer: format!("{}/{index}", self.pointer),
            name: format!("{}[{index}]", self.name),
            path: format!("{}[]", self.path),
        });
        // A named list is named as a whole; its elements have names of their own only with their index.
        let (named, rest): (Vec<Self>, Vec<Self>) = nodes.partition(Self::is_ignored);
        named.iter().for_each(Self::warn_ignored);
        Ok(rest)
    }

    /// Says how a field that is refused can be left out.
    pub(super) fn may_be_ignored(&self, error: Box<Error>) -> Box<Error> {
        // A name with a separator in it could be taken for the path of another field.
        let name = if fields::find(&self.path).is_some() { &self.path } else { &self.pointer };
        let advice = format!("if the container may do without it, name it: {{ ignore: ['{name}'] }}");
        error.with_hint(advice)
    }

    fn warn_ignored(&self) {
        self.warn("ignored-field", format!("{} is ignored, as asked", self.name));
    }

    /// Each element of an array through a parser.
    pub(super) fn list<T>(&self, element: impl Fn(&Self) -> Result<T>) -> Result<Vec<T>> {
        self.items()?.iter().map(element).collect()
    }

    fn entries(&self) -> Result<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.unexpected("object"))
    }

    /// An object of strings, whose names are checked.
    pub(super) fn strings(&self, check: impl Fn(&Self, &str) -> Result<()>) -> Result<Vec<(String, String)>> {
        let mut strings = Vec::new();
        for (key, value) in self.entries()? {
            let node = self.field(key, value);
            if node.is_ignored() {
                node.warn_ignored();
                continue;
            }
            if key.is_empty() || key.contains('\0') {
                return Err(node.wrong("a name must not be empty or contain a NUL byte"));
            }
            check(&node, key)?;
            strings.push((key.clone(), node.text()?.to_owned()));
        }
        Ok(strings)
    }

    /// An object whose fields are in the table. What is not enforced is dealt with here.
    pub(super) fn object(&self) -> Result<Object<'a>> {
        let entries = self.entries()?;
        let mut fields = Vec::new();
        for (key, value) in entries {
            let node = self.field(key, value);
            if value.is_null() {
                continue;
            }
            if node.is_ignored() {
                node.warn_ignored();
                continue;
            }
            // A name with a separator in it could look like the path of another field.
            let known = fields::find(&node.path).filter(|_| !key.contains(['.', '[', ']']));
            let Some(field) = known else {
                return Err(node.may_be_ignored(node.wrong("this field is unknown")));
            };
            match field.treatment {
                Treatment::Enforced | Treatment::WithoutEffect => fields.push(node),
                Treatment::Reported => {
                    if !is_empty(value) {
                        let message = format!("{} is not enforced: {}", node.name, field.note);
                        node.warn("not-enforced", message);
                    }
                    fields.push(node);
                }
                _ if is_empty(value) => {}
                Treatment::Refused(code) => {
                    let error = node.error(code, format_args!("this is not enforced: {}", field.note));
                    return Err(node.may_be_ignored(error));
                }
            }
        }
        Ok(Object { node: self.clone(), fields })
    }
}

/// An object whose fields were looked up in the table.
pub(super) struct Object<'a> {
    node: Node<'a>,
    fields: Vec<Node<'a>>,
}

impl<'a> Object<'a> {
    fn path_of(&self, key: &str) -> String {
        if self.node.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.node.path) }
    }

    /// What a field says that nothing comes of.
    pub(super) fn unenforced(&self, key: &str) -> Option<Value> {
        let path = self.path_of(key);
        debug_assert!(
            fields::find(&path).is_some_and(|field| field.treatment != Treatment::Enforced),
            "{path} is enforced"
        );
        self.fields.iter().find(|node| node.path == path).map(Node::verbatim)
    }

    /// A field, unless it is missing, null, or ignored.
    pub(super) fn get(&self, key: &str) -> Option<&Node<'a>> {
        let path = self.path_of(key);
        let known = fields::find(&path).filter(|field| field.treatment == Treatment::Enforced);
        debug_assert!(known.is_some(), "{path} is read, and the table doesn't say so");
        #[cfg(test)]
        self.node.context.read.borrow_mut().extend(known.map(|field| field.path));
        self.fields.iter().find(|node| node.path == path)
    }

    /// A field through a parser.
    pub(super) fn read<T>(&self, key: &str, parse: impl FnOnce(&Node<'a>) -> Result<T>) -> Result<Option<T>> {
        self.get(key).map(parse).transpose()
    }

    /// A field that must be there.
    pub(super) fn require<T>(&self, key: &str, parse: impl FnOnce(&Node<'a>) -> Result<T>) -> Result<T> {
        match self.read(key, parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(key)),
        }
    }

    /// An error about a field that must be there and isn't.
    pub(super) fn missing(&self, key: &str) -> Box<Error> {
        self.node.field(key, &Value::Null).wrong("this field is required")
    }

    /// The object itself.
    pub(super) fn node(&self) -> &Node<'a> {
        &self.node
    }
}
