use super::*;

/// Of our own, in the columns of the later releases.
const BURST: &str = "\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
3.5,s1,2.25,ChatGPT,300,40,340,Conversation log
4.75,,1.5,GPT-4,1200,7,1207,API log
4.75,,0.1,GPT-4,90,0,90,API log
5,s2,0.2,ChatGPT,0,0,0,Conversation log
60,s1,3,ChatGPT,25,512,537,Conversation log
";

#[test]
fn broken_traces_name_the_line() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n";
    let check = |format, text: &str, told: &[&str]| {
        let error = Trace::read(text.as_bytes(), format).unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    };
    for (line, told) in [
        ("2023-11-16 18:15:47.0,-3,44", ["line 3", "ContextTokens", "-3"]),
        ("2023-11-16 18:15:47.0,374,0", ["line 3", "GeneratedTokens", "\"0\""]),
        ("2023-11-16 18:15:47.0,374", ["line 3", "2 columns", "expected 3"]),
        ("2023-11-16 18:15:46.0,374,44", ["line 3", "680ms", "sort"]),
        ("yesterday,374,44", ["line 3", "TIMESTAMP", "yesterday"]),
        ("2023-11-16 18:15:47.0,many,44", ["line 3", "ContextTokens", "many"]),
    ] {
        check(TraceFormat::AzureCsv, &format!("{azure}{line}\n"), &told);
    }
    check(TraceFormat::AzureCsv, "a,b,c\n", &["line 1", "the header", "a,b,c"]);
    check(TraceFormat::AzureCsv, "", &["no requests"]);

    let good = r#"{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1,2]}"#;
    for (line, told) in [
        (r#"{"timestamp":4,"input_length":1,"output_length":1,"hash_ids":[1]}"#, ["line 2", "1ms"]),
        (r#"{"timestamp":9,"input_length":-1,"output_length":1,"hash_ids":[]}"#, ["line 2", "-1"]),
        (
            r#"{"timestamp":9,"input_length":600,"output_length":1,"hash_ids":[1]}"#,
            ["line 2", "1 entries"],
        ),
        (r#"{"timestamp":-9,"input_length":6,"output_length":1,"hash_ids":[1]}"#, ["line 2", "-9"]),
        (r#"{"timestamp":9,"input_length":6"#, ["line 2", "not a request"]),
        (r#"{"timestamp":9,"output_length":1,"hash_ids":[1]}"#, ["line 2", "input_length"]),
    ] {
        check(TraceFormat::MooncakeJsonl, &format!("{good}\n{line}\n"), &told);
    }
    let trace = Trace::read(good.as_bytes(), TraceFormat::MooncakeJsonl).unwrap();
    assert_eq!((trace.requests[0].after, trace.requests[0].prompt.len()), (Duration::ZERO, 600));
}

#[test]
fn broken_rows_of_burstgpt_name_the_line() {
    for (row, told) in [
        ("1,,1,m,5,5,10,l", ["line 7", "59s", "sort"]),
        ("soon,,1,m,5,5,10,l", ["line 7", "Timestamp is \"soon\"", "seconds"]),
        ("-1,,1,m,5,5,10,l", ["line 7", "Timestamp is \"-1\"", "at least 0"]),
        ("NaN,,1,m,5,5,10,l", ["line 7", "Timestamp is \"NaN\"", "seconds"]),
        ("61,,1,m,0,5,10,l", ["line 7", "Request tokens is \"0\"", "at least 1"]),
        ("61,,1,m,few,0,10,l", ["line 7", "Request tokens is \"few\"", "tokens"]),
        ("61,,1,m,5,-5,10,l", ["line 7", "Response tokens is \"-5\"", "tokens"]),
        ("61,,1,m,5,5", ["line 7", "6 columns", "expected 8"]),
    ] {
        let text = format!("{BURST}{row}\n");
        let error = Trace::read(text.as_bytes(), TraceFormat::BurstGptCsv).unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    }
    let other = "Timestamp,Model,Request tokens\n1,m,5\n";
    let error = Trace::read(other.as_bytes(), TraceFormat::BurstGptCsv).unwrap_err().to_string();
    assert!(error.contains("line 1: the header is \"Timestamp,Model,Request tokens\""), "{error}");
    let failed = "Timestamp,Request tokens,Response tokens\n1,5,0\n";
    let empty = Trace::read(failed.as_bytes(), TraceFormat::BurstGptCsv);
    assert!(matches!(empty, Err(TraceError::Empty)));
}

#[test]
fn requests_that_failed_are_counted_and_left_out() {
    let older = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                 3.5,m,300,40,340,l\n4,m,90,0,90,l\n4.75,m,1200,7,1207,l\n\
                 5,m,0,0,0,l\n60,m,25,512,537,l\n";
    for text in [BURST, older] {
        let trace = Trace::read_any(text.as_bytes()).unwrap();
        let one = |it: &TraceRequest| (it.after.as_millis(), it.prompt.len(), it.output_len);
        let requests: Vec<_> = trace.requests.iter().map(one).collect();
        assert_eq!(requests, [(0, 300, 40), (1250, 1200, 7), (56_500, 25, 512)]);
        assert_eq!((trace.failed, trace.window(1, 1).failed), (2, 2));
    }
}

#[test]
fn the_first_line_tells_the_format() {
    for (line, format) in [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", Some(TraceFormat::AzureCsv)),
        ("\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\r\n", Some(TraceFormat::AzureCsv)),
        (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            Some(TraceFormat::BurstGptCsv),
        ),
        (r#""Timestamp","Request tokens", "Response tokens""#, Some(TraceFormat::BurstGptCsv)),
        (r#"  {"timestamp": 27, "input_length": 6758, "#, Some(TraceFormat::MooncakeJsonl)),
        ("[{", None),
        ("time,tokens", None),
        ("", None),
    ] {
        assert_eq!(TraceFormat::guess(line), format, "{line:?}");
    }
    let read = |text: &str| Trace::read_any(text.as_bytes()).map(|trace| trace.requests.len());
    let long = r#"{"timestamp":5,"input_length":60,"output_length":1,"hash_ids":[1]}"#.to_owned();
    let blank = " ".repeat(100_000);
    assert_eq!(read(&format!("\n{blank}{long}\n{long}\n")).unwrap(), 2);
    let error = read("when,what\n1,2\n").unwrap_err().to_string();
    for told in ["when,what", "Azure", "ContextTokens", "BurstGPT", "Request tokens", "Mooncake"] {
        assert!(error.contains(told), "{error:?} doesn't tell {told}");
    }
    assert!(matches!(read(" \n\n"), Err(TraceError::Empty)));
}

#[test]
fn a_trace_is_stretched_to_a_rate() {
    let trace = Trace::read_any(BURST.as_bytes()).unwrap();
    assert_eq!(trace.stretch(3, None), Ok(1.0));
    // Two gaps in 56.5 s.
    assert_eq!(trace.stretch(usize::MAX, Some(2.0)), Ok(2.0 / 56.5 / 2.0));
    assert_eq!(trace.stretch(0, Some(2.0)), Err(WorkloadError::EmptyTrace));
    let one = WorkloadError::NoRate { requests: 1, wanted: 2.0 };
    assert_eq!(trace.stretch(1, Some(2.0)), Err(one));
}
