use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sample {
    bytes: Vec<u8>,
    nested: Option<Option<i64>>,
    text: String,
    map: BTreeMap<String, u64>,
    unit: (),
    tuple: (u8, char),
    choice: Choice,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Choice {
    None,
    One(i64),
    Named { value: u64 },
}

fn sample() -> impl Strategy<Value = Sample> {
    let choice = prop_oneof![
        Just(Choice::None),
        any::<i64>().prop_map(Choice::One),
        any::<u64>().prop_map(|value| Choice::Named { value }),
    ];
    (
        any::<Vec<u8>>(),
        any::<Option<i64>>(),
        any::<String>(),
        any::<BTreeMap<String, u64>>(),
        any::<(u8, char)>(),
        choice,
    )
        .prop_map(|(bytes, nested, text, map, tuple, choice)| Sample {
            bytes,
            nested: nested.map(Some),
            text,
            map,
            unit: (),
            tuple,
            choice,
        })
}

fn there_and_back<C: Encode<T> + Decode<T>, T>(value: &T) -> T {
    C::decode(encode_value::<C, T>(value).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn values_come_back_the_same(value in sample()) {
        prop_assert_eq!(&there_and_back::<MessagePack, _>(&value), &value);
        prop_assert_eq!(&there_and_back::<Json, _>(&value), &value);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in any::<Vec<u8>>()) {
        let bytes = Bytes::from(bytes);
        let _ = <MessagePack as Decode<Sample>>::decode(bytes.clone());
        let _ = <Json as Decode<Sample>>::decode(bytes.clone());
        let _ = two::<MessagePack, String, u64>(bytes);
    }
}

#[test]
fn a_byte_string_costs_its_bytes() {
    let bytes = vec![200_u8; 1 << 20];
    let encoded = encode_value::<MessagePack, _>(&bytes).unwrap();
    assert!(encoded.len() <= bytes.len() + 8, "{} bytes", encoded.len());
    assert_eq!(there_and_back::<MessagePack, _>(&bytes), bytes);
}

#[test]
fn a_large_byte_string_is_not_copied() {
    let bytes = Bytes::from(vec![200_u8; 1 << 20]);
    assert!(give_byte_string::<Json, Bytes>(&bytes).is_none());
    assert!(give_byte_string::<MessagePack, Vec<u8>>(&bytes.to_vec()).is_none());
    assert!(give_byte_string::<MessagePack, Bytes>(&bytes.slice(..1000)).is_none());
    let given = give_byte_string::<MessagePack, Bytes>(&bytes).unwrap();
    let (head, rest) = given.clone().into_pieces();
    assert_eq!((head.len() + rest.len(), rest.as_ptr()), (given.len(), bytes.as_ptr()));
    let whole = given.into_bytes();
    assert_eq!(whole, encode_value::<MessagePack, _>(&bytes.to_vec()).unwrap());
    let back = take_byte_string::<Bytes>(&whole).unwrap();
    assert_eq!((&back, back.as_ptr()), (&bytes, whole[5..].as_ptr()));
    // What is cut short, or of another type, goes the way of all others.
    assert!(take_byte_string::<Bytes>(&whole.slice(..1 << 19)).is_none());
    assert!(take_byte_string::<Vec<u8>>(&whole).is_none());
    assert_eq!(<MessagePack as Decode<Vec<u8>>>::decode(whole).unwrap(), bytes);
}

#[test]
fn a_byte_string_of_any_length_is_what_the_codec_makes_of_it() {
    for len in [1, 255, 256, 4096, 65_535, 65_536, 65_600] {
        let bytes = Bytes::from(vec![200_u8; len]);
        let encoded = encode_value::<MessagePack, _>(&bytes.to_vec()).unwrap();
        if let Some(given) = give_byte_string::<MessagePack, Bytes>(&bytes) {
            assert_eq!(given.into_bytes(), encoded, "{len} bytes");
        }
        assert_eq!(take_byte_string::<Bytes>(&encoded), Some(bytes));
        assert_eq!(take_byte_string::<Bytes>(&encoded.slice(..encoded.len() - 1)), None);
    }
}

#[test]
fn collections_of_bytes_come_back_whatever_holds_them() {
    use std::collections::{BTreeSet, VecDeque};

    fn check<T>(value: T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
    {
        assert_eq!(there_and_back::<MessagePack, T>(&value), value);
        assert_eq!(there_and_back::<Json, T>(&value), value);
    }

    check(BTreeSet::from([1_u8, 200]));
    check(VecDeque::from([1_u8, 200]));
    check([1_u8, 200, 3, 4]);
    check((1_u8, 200_u8));
    check(Vec::<u8>::new());
    check(vec![vec![1_u8], vec![]]);
    check(Some(vec![200_u8]));
    check(BTreeMap::from([(vec![1_u8], "x".to_owned())].map(|(key, value)| (key.len(), value))));
    check(Box::<[u8]>::from([1_u8, 200]));
    check(serde_json::json!({"list": [1, 200], "none": null}));
    check(vec![1_i8, -1]);
    check(vec![Choice::None, Choice::One(200), Choice::Named { value: 1 }]);
}

fn one<C: Decode<A>, A>(args: Bytes) -> Result<A, Error> {
    let mut args = ArgsReader::new(args);
    let first = args.arg::<C, A>()?;
    args.finish().map(|()| first)
}

fn two<C: Decode<A> + Decode<B>, A, B>(args: Bytes) -> Result<(A, B), Error> {
    let mut args = ArgsReader::new(args);
    let both = (args.arg::<C, A>()?, args.arg::<C, B>()?);
    args.finish().map(|()| both)
}

#[test]
fn references_decode_as_the_owned_form() {
    let args = ArgsWriter::new()
        .arg::<MessagePack, _>("key")
        .arg::<MessagePack, _>(&[1_u32, 2][..])
        .finish()
        .unwrap();
    let back = two::<MessagePack, String, Vec<u32>>(args).unwrap();
    assert_eq!(back, ("key".to_owned(), vec![1, 2]));
}

#[test]
fn a_wrong_number_of_arguments_says_which() {
    let args = ArgsWriter::new().arg::<Json, _>("key").finish().unwrap();
    let error = two::<Json, String, u8>(args.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MethodMismatch);
    assert!(error.to_string().contains("argument 2 is missing"), "{error}");
    let error = ArgsReader::new(args.clone()).finish().unwrap_err();
    assert!(error.to_string().contains("more arguments"), "{error}");
    let error = one::<Json, String>(args.slice(..args.len() - 1)).unwrap_err();
    assert!(error.to_string().contains("argument 1 is cut short"), "{error}");
    assert!(ArgsWriter::new().finish().unwrap().is_empty());
}

#[test]
fn a_type_that_does_not_fit_is_a_mismatch() {
    let args = ArgsWriter::new().arg::<Protobuf, _>("key").finish().unwrap();
    assert_eq!(one::<Protobuf, String>(args).unwrap(), "key");
    let args = ArgsWriter::new().arg::<MessagePack, _>("key").finish().unwrap();
    let error = one::<MessagePack, u64>(args).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MethodMismatch);
}

#[test]
fn an_argument_without_a_form_in_the_codec_is_told_at_the_end() {
    let keys_are_no_strings = BTreeMap::from([((1, 2), 3)]);
    let args = ArgsWriter::new().arg::<Json, _>(&keys_are_no_strings).arg::<Json, _>(&1);
    assert_eq!(args.finish().unwrap_err().kind(), ErrorKind::Encode);
}

#[test]
fn named_fields_tolerate_additions() {
    #[derive(Serialize)]
    struct New {
        name: String,
        added: u32,
    }
    #[derive(Deserialize)]
    struct Old {
        name: String,
    }
    let new = encode_value::<MessagePack, _>(&New { name: "n".into(), added: 1 }).unwrap();
    let old: Old = MessagePack::decode(new).unwrap();
    assert_eq!(old.name, "n");
}
