use proptest::prelude::*;

use super::*;

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn typed(tensor: InferInputTensor, contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor { contents: Some(contents), ..tensor }
}

fn only(tensor: InferInputTensor, raw: Option<&[u8]>) -> Result<Tensor, TensorError> {
    let raw = raw.map(Bytes::copy_from_slice).into_iter().collect();
    tensors(vec![tensor], raw).map(|mut tensors| tensors.remove(0))
}

/// Refused with all of `parts` in the message, and by the field.
#[track_caller]
fn refused<T: fmt::Debug>(result: Result<T, TensorError>, field: &str, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.field(), field, "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn text_is_read_in_both_forms() {
    let text = || tensor("text_input", "BYTES", &[1]);
    let bytes_contents = vec![Bytes::from_static("süß".as_bytes())];
    let contents = InferTensorContents { bytes_contents, ..InferTensorContents::default() };
    assert_eq!(only(typed(text(), contents), None).unwrap().text().unwrap(), "süß");
    let raw = raw_text("süß");
    assert_eq!(only(text(), Some(&raw)).unwrap().text().unwrap(), "süß");
    assert_eq!(only(text(), Some(&raw_text(""))).unwrap().text().unwrap(), "");
    let batch_of_one = tensor("text_input", "BYTES", &[1, 1]);
    assert_eq!(only(batch_of_one, Some(&raw)).unwrap().text().unwrap(), "süß");
}

#[test]
fn text_that_is_not_as_its_length_says_is_refused() {
    let read = |raw: &[u8]| only(tensor("text_input", "BYTES", &[1]), Some(raw))?.text();
    refused(read(&[]), "text_input", &["0 raw bytes", "takes 4"]);
    refused(read(&[1, 0, 0]), "text_input", &["3 raw bytes", "takes 4"]);
    refused(read(&[9, 0, 0, 0, b'x']), "text_input", &["1 raw bytes", "says 9"]);
    refused(read(&[0, 0, 0, 0, b'x']), "text_input", &["1 raw bytes", "says 0"]);
    refused(read(&[1, 0, 0, 0, 0xff]), "text_input", &["UTF-8"]);
    let none = only(tensor("text_input", "BYTES", &[1]), None).unwrap().text();
    refused(none, "text_input", &["0 elements", "has 1"]);
}

#[test]
fn ids_are_read_in_both_forms_and_widths() {
    let ids = |ids: &[u32]| ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
    let contents = || InferTensorContents {
        int_contents: vec![7, 8],
        int64_contents: vec![9, 10],
        ..InferTensorContents::default()
    };
    let check = |datatype: &str, shape: &[i64], expected: &[u32]| {
        let tensor = typed(tensor("input_ids", datatype, shape), contents());
        assert_eq!(only(tensor, None).unwrap().ids().unwrap(), ids(expected), "{datatype}");
    };
    check("INT32", &[2], &[7, 8]);
    check("INT32", &[1, 2], &[7, 8]);
    check("INT64", &[2], &[9, 10]);
    let raw = raw_ids([TokenId(3), TokenId(1 << 20)].into_iter());
    let narrow = only(tensor("input_ids", "INT32", &[2]), Some(&raw)).unwrap();
    assert_eq!(narrow.ids().unwrap(), ids(&[3, 1 << 20]));
    let wide = only(tensor("input_ids", "INT64", &[1]), Some(&[5, 0, 0, 0, 0, 0, 0, 0])).unwrap();
    assert_eq!(wide.ids().unwrap(), ids(&[5]));
}

#[test]
fn ids_that_are_not_as_their_shape_says_are_refused() {
    let read = |datatype: &str, shape: &[i64], raw: &[u8]| {
        only(tensor("input_ids", datatype, shape), Some(raw))?.ids()
    };
    refused(read("INT32", &[2], &[0; 7]), "input_ids", &["7 raw bytes", "takes 8"]);
    refused(read("INT64", &[2], &[0; 8]), "input_ids", &["8 raw bytes", "takes 16"]);
    refused(read("INT32", &[1], &[0xff; 4]), "input_ids", &["token -1"]);
    refused(read("INT64", &[1], &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]), "input_ids", &["token"]);
    refused(read("INT32", &[-2], &[]), "input_ids", &["[-2]", "[n]"]);
    refused(read("INT32", &[2, 3], &[0; 24]), "input_ids", &["[2, 3]", "[1, n]"]);
    refused(read("INT32", &[], &[]), "input_ids", &["[]"]);
    refused(read("INT32", &[i64::MAX], &[]), "input_ids", &["at most 1048576"]);
    refused(read("INT32", &[1; 99], &[0; 4]), "input_ids", &["and 91 more"]);
}

#[test]
fn flags_are_one_byte() {
    let read = |raw: &[u8]| only(tensor("stream", "BOOL", &[1]), Some(raw))?.flag();
    assert_eq!(read(&[1]), Ok(true));
    assert_eq!(read(&[0]), Ok(false));
    refused(read(&[]), "stream", &["0 raw bytes", "takes 1"]);
    refused(read(&[1, 0]), "stream", &["2 raw bytes", "takes 1"]);
}

#[test]
fn inputs_are_known_alone_and_of_their_datatype() {
    let stream = || tensor("stream", "BOOL", &[1]);
    refused(only(tensor("prompt", "BYTES", &[1]), None), "inputs", &["`prompt`", "text_input"]);
    refused(only(tensor(&"x".repeat(9000), "BYTES", &[1]), None), "inputs", &["xx…"]);
    refused(only(tensor("text_input", "FP32", &[1]), None), "text_input", &["`FP32`", "BYTES"]);
    refused(only(tensor("stream", "BOOL", &[2]), None), "stream", &["[2]", "[1]"]);
    refused(tensors(vec![stream(), stream()], Vec::new()), "stream", &["twice"]);
    let raw = vec![Bytes::from_static(&[1]); 3];
    refused(tensors(vec![stream()], raw), "raw_input_contents", &["3 entries", "1 inputs"]);
    let contents = InferTensorContents { bool_contents: vec![true], ..Default::default() };
    refused(only(typed(stream(), contents), Some(&[1])), "stream", &["one of them"]);
    let mut shared = stream();
    shared.parameters.insert("shared_memory_region".to_owned(), Default::default());
    refused(only(shared, None), "stream", &["shared memory"]);
}

proptest! {
    /// Whatever is sent is read or refused, in words that fit into a header.
    #[test]
    fn nothing_but_a_refusal_comes_of_bad_bytes(
        input in prop::sample::select(Input::ALL.to_vec()),
        wide in any::<bool>(),
        shape in prop::collection::vec(-3..5_i64, 0..4),
        raw in prop::option::of(prop::collection::vec(any::<u8>(), 0..24)),
    ) {
        let datatypes = input.datatypes();
        let datatype = datatypes[usize::from(wide) % datatypes.len()];
        let read = only(tensor(input.name(), datatype, &shape), raw.as_deref()).and_then(|read| {
            match datatype {
                "BYTES" => read.text().map(drop),
                "BOOL" => read.flag().map(drop),
                _ => read.ids().map(drop),
            }
        });
        if let Err(error) = read {
            prop_assert!(error.to_string().len() < 300);
            prop_assert_eq!(error.field(), input.name());
        }
    }
}
