//! JSON text, in which an object has each of its names once. What a second one means, RFC 8259 leaves to the reader: one
//! that takes the last would drop what the first says, such as the masked paths of an earlier `linux`.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorCode, Result};

/// Reads a text. Nothing may follow the value.
pub(super) fn parse(text: &[u8]) -> Result<Value> {
    let repeated = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = Reader { place: &Place::Top, repeated: &repeated }.deserialize(&mut deserializer);
    let read = read.and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| match repeated.take() {
        Some(Repeated { pointer, name }) => {
            let at = format!("line {}, column {}", error.line(), error.column());
            Error::new(ErrorCode::Spec, format!("{name}: this field is there twice, again at {at}"))
                .with_pointer(pointer)
        }
        None => Error::new(ErrorCode::Spec, format!("the config is not JSON: {error}")),
    })
}

/// A name that an object has twice.
struct Repeated {
    /// RFC 6901.
    pointer: String,
    /// For people: `linux.seccomp`.
    name: String,
}

/// Where a value is. Nothing is allocated unless it has to be told.
enum Place<'a> {
    Top,
    Field(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        match self {
            Self::Top => String::new(),
            Self::Field(parent, key) => {
                format!("{}/{}", parent.pointer(), key.replace('~', "~0").replace('/', "~1"))
            }
            Self::Element(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Top => "the config".to_owned(),
            Self::Field(Self::Top, key) => (*key).to_owned(),
            Self::Field(parent, key) => format!("{}.{key}", parent.name()),
            Self::Element(parent, index) => format!("{}[{index}]", parent.name()),
        }
    }
}

/// Reads one value.
struct Reader<'a> {
    place: &'a Place<'a>,
    /// Set where the reading ends with an error of ours.
    repeated: &'a RefCell<Option<Repeated>>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let place = Place::Element(self.place, array.len());
            let Some(item) = items.next_element_seed(Reader { place: &place, repeated: self.repeated })?
            else {
                return Ok(array.into());
            };
            array.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = Place::Field(self.place, &key);
            if object.contains_key(&key) {
                *self.repeated.borrow_mut() = Some(Repeated { pointer: place.pointer(), name: place.name() });
                return Err(A::Error::custom("a name is there twice"));
            }
            let value = entries.next_value_seed(Reader { place: &place, repeated: self.repeated })?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_is_there_twice_is_refused_wherever_it_is() {
        for (text, pointer, name) in [
            (r#"{ "linux": { "maskedPaths": ["/x"] }, "linux": {} }"#, "/linux", "linux"),
            (r#"{ "a": null, "a": null }"#, "/a", "a"),
            (r#"{ "a": 1, "\u0061": 1 }"#, "/a", "a"),
            (r#"{ "a": [0, { "b/~": {}, "b/~": {} }] }"#, "/a/1/b~1~0", "a[1].b/~"),
            (r#"[{ "a": { "": 1, "": 2 } }]"#, "/0/a/", "the config[0].a."),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.pointer.as_deref()), (ErrorCode::Spec, Some(pointer)), "{text}");
            let message = format!("{name}: this field is there twice, again at line 1, column ");
            assert!(error.message.starts_with(&message), "{error}");
        }
    }

    #[test]
    fn the_same_name_in_different_objects_is_none_that_is_there_twice() {
        let text = r#"{ "a": { "a": 1 }, "b": [{ "a": 1 }, { "a": 1 }], "A": 2 }"#;
        let value = json!({ "a": { "a": 1 }, "b": [{ "a": 1 }, { "a": 1 }], "A": 2 });
        assert_eq!(parse(text.as_bytes()).unwrap(), value);
    }

    #[test]
    fn what_is_nested_too_deep_or_goes_on_is_refused() {
        for text in ["[".repeat(100_000), "{}{}".to_owned(), "{} x".to_owned(), "1 2".to_owned()] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.pointer.as_deref()), (ErrorCode::Spec, None));
            assert!(error.message.starts_with("the config is not JSON: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn everything_else_is_read_as_anybody_reads_it(text in "[\\[\\]{}:,\"a0-9.eE+\\-\\\\ tfn]{0,24}") {
            let theirs = serde_json::from_str::<Value>(&text);
            match parse(text.as_bytes()) {
                Ok(value) => prop_assert_eq!(value, theirs.unwrap()),
                Err(error) => prop_assert!(error.pointer.is_some() || theirs.is_err(), "{}", error),
            }
        }
    }
}
