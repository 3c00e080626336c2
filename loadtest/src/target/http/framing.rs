//! Where an answer's body begins and ends (RFC 9112, section 6.3): bytes in, what they are out.

use http::{StatusCode, header};

/// Longer heads, and lines of a chunked body that are no data, are nobody's.
const LONGEST: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// What begins an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) request_id: Option<String>,
    pub(super) body: Body,
    /// Whether the connection may be used again when the body has been read.
    pub(super) stays: bool,
}

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Over,
    Sized(u64),
    /// All until the connection ends.
    UntilClosed,
    /// Chunked: at a chunk's size,
    Size,
    /// within one,
    Chunk(u64),
    /// at the line's end behind one,
    ChunkEnd,
    /// and behind the last.
    Trailers,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// So many are data.
    Data(usize),
    /// So many say how the body goes on.
    Framing(usize),
    /// It can't be told before there are more.
    More,
    /// They belong to the next answer.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the answer doesn't begin as HTTP/1.1 does ({0}): {1:?}")]
    Head(httparse::Error, String),
    #[error("the answer's {name} is {value:?}, which says no length")]
    Length { name: &'static str, value: String },
    #[error("a chunk's size can't be read: {0:?}")]
    Chunk(String),
    #[error("the answer's head, or what is between two of its chunks, has {0} bytes and no end")]
    Endless(usize),
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()
}

impl Head {
    /// The head that these bytes begin with, and how many are its; none when there must be more of them. Interim
    /// answers (1xx) are the caller's to skip.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let wrong = |error| Malformed::Head(error, shown(bytes));
        let httparse::Status::Complete(length) = response.parse(bytes).map_err(wrong)? else {
            let is_endless = bytes.len() > LONGEST;
            return if is_endless { Err(Malformed::Endless(bytes.len())) } else { Ok(None) };
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or_else(|| wrong(httparse::Error::Status))?;
        let mut head = Head {
            status,
            request_id: None,
            body: Body::UntilClosed,
            stays: response.version == Some(1),
        };
        let mut length_told = None;
        let mut is_chunked = false;
        for header in response.headers.iter() {
            let is = |name: header::HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
            let text = String::from_utf8_lossy(header.value);
            let has = |word: &str| text.split(',').any(|one| one.trim().eq_ignore_ascii_case(word));
            if is(header::CONTENT_LENGTH) {
                let length = text.parse();
                let wrong =
                    |_| Malformed::Length { name: "content-length", value: text.to_string() };
                length_told = Some(length.map_err(wrong)?);
            } else if is(header::TRANSFER_ENCODING) {
                if !text.trim().eq_ignore_ascii_case("chunked") {
                    let value = text.into_owned();
                    return Err(Malformed::Length { name: "transfer-encoding", value });
                }
                is_chunked = true;
            } else if is(header::CONNECTION) {
                head.stays = (head.stays || has("keep-alive")) && !has("close");
            } else if header.name.eq_ignore_ascii_case("x-request-id") {
                head.request_id = Some(text.into_owned());
            }
        }
        let has_none = status.is_informational()
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        head.body = match length_told {
            _ if has_none => Body::Over,
            _ if is_chunked => Body::Size,
            Some(0) => Body::Over,
            Some(length) => Body::Sized(length),
            None => Body::UntilClosed,
        };
        head.stays &= head.body != Body::UntilClosed;
        Ok(Some((head, length)))
    }
}

impl Body {
    /// What the next bytes are, taken to have been read.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Taken, Malformed> {
        let most = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let partial = || match bytes.len() {
            length if length > LONGEST => Err(Malformed::Endless(length)),
            _ => Ok(Taken::More),
        };
        match *self {
            Body::Over => Ok(Taken::Over),
            _ if bytes.is_empty() => Ok(Taken::More),
            Body::UntilClosed => Ok(Taken::Data(bytes.len())),
            Body::Sized(left) => {
                let data = most(left);
                let left = left - data as u64;
                *self = if left == 0 { Body::Over } else { Body::Sized(left) };
                Ok(Taken::Data(data))
            }
            Body::Chunk(left) => {
                let data = most(left);
                let left = left - data as u64;
                *self = if left == 0 { Body::ChunkEnd } else { Body::Chunk(left) };
                Ok(Taken::Data(data))
            }
            Body::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    *self = Body::Size;
                    Ok(Taken::Framing(2))
                }
                [b'\r'] => Ok(Taken::More),
                _ => Err(Malformed::Chunk(shown(bytes))),
            },
            Body::Size => match httparse::parse_chunk_size(bytes) {
                Ok(httparse::Status::Complete((length, size))) => {
                    *self = if size == 0 { Body::Trailers } else { Body::Chunk(size) };
                    Ok(Taken::Framing(length))
                }
                Ok(httparse::Status::Partial) => partial(),
                Err(_) => Err(Malformed::Chunk(shown(bytes))),
            },
            Body::Trailers => {
                let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
                match httparse::parse_headers(bytes, &mut headers) {
                    Ok(httparse::Status::Complete((length, _))) => {
                        *self = Body::Over;
                        Ok(Taken::Framing(length))
                    }
                    Ok(httparse::Status::Partial) => partial(),
                    Err(_) => Err(Malformed::Chunk(shown(bytes))),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What one connection says of its answers, read in pieces.
    fn read(bytes: &[u8], pieces: &[usize]) -> Result<Vec<(u16, Vec<u8>)>, Malformed> {
        let (mut come, mut at) = (0, 0);
        let mut pieces = pieces.iter().copied().cycle();
        let mut answers: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut body = Body::Over;
        loop {
            let taken = match body {
                Body::Over => match Head::parse(&bytes[at..come])? {
                    None => Taken::More,
                    Some((head, length)) => {
                        answers.push((head.status.as_u16(), Vec::new()));
                        body = head.body;
                        Taken::Framing(length)
                    }
                },
                _ => body.take(&bytes[at..come])?,
            };
            match taken {
                Taken::Data(length) => {
                    if let Some((_, data)) = answers.last_mut() {
                        data.extend_from_slice(&bytes[at..at + length]);
                    }
                    at += length;
                }
                Taken::Framing(length) => at += length,
                Taken::More if come == bytes.len() => return Ok(answers),
                Taken::More => come = (come + pieces.next().unwrap_or(1)).min(bytes.len()),
                Taken::Over => {}
            }
        }
    }

    /// A body, sized or in chunks of these sizes.
    fn answer(body: &[u8], chunks: &[usize]) -> Vec<u8> {
        if chunks.is_empty() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            return [head.as_bytes(), body].concat();
        }
        let mut said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let (mut left, mut sizes) = (body, chunks.iter().copied().cycle());
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(sizes.next().unwrap_or(1).min(left.len()));
            said.extend_from_slice(format!("{:X};part\r\n", chunk.len()).as_bytes());
            said.extend_from_slice(chunk);
            said.extend_from_slice(b"\r\n");
            left = rest;
        }
        said.extend_from_slice(b"0\r\nserver-timing: x\r\n\r\n");
        said
    }

    proptest! {
        #[test]
        fn bodies_come_out_as_they_went_in(
            bodies in vec((vec(any::<u8>(), 0..300), vec(1_usize..40, 0..4)), 1..5),
            pieces in vec(1_usize..50, 1..6),
        ) {
            let mut said = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
            for (body, chunks) in &bodies {
                said.extend(answer(body, chunks));
            }
            let mut expected = vec![(100, Vec::new())];
            expected.extend(bodies.into_iter().map(|(body, _)| (200, body)));
            prop_assert_eq!(read(&said, &pieces), Ok(expected));
        }

        /// Whatever a server sends, it costs an error at most.
        #[test]
        fn any_bytes_are_read(mut bytes in vec(any::<u8>(), 0..300), pieces in vec(1_usize..50, 1..6)) {
            drop(read(&bytes, &pieces));
            let mut chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            chunked.append(&mut bytes);
            drop(read(&chunked, &pieces));
        }
    }

    #[test]
    fn whether_a_connection_stays_is_told_by_its_answer() {
        let stays = |head: &str| Head::parse(head.as_bytes()).unwrap().unwrap().0.stays;
        assert!(stays("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"));
        assert!(!stays("HTTP/1.1 200 OK\r\ncontent-length: 1\r\nConnection: Close\r\n\r\n"));
        assert!(!stays("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n"));
        assert!(stays("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n"));
        assert!(!stays("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(stays("HTTP/1.1 204 No Content\r\n\r\n"));
    }

    #[test]
    fn what_says_no_length_is_told() {
        let said = |head: &str| Head::parse(head.as_bytes()).unwrap_err().to_string();
        assert!(said("HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").contains("\"many\""));
        assert!(
            said("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n").contains("gzip")
        );
        assert!(said("SSH-2.0-OpenSSH_9.2\r\n").contains("SSH-2.0"));
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(LONGEST));
        assert_eq!(Head::parse(endless.as_bytes()), Err(Malformed::Endless(endless.len())));
        let mut body = Body::Size;
        let endless = vec![b'0'; 2];
        assert_eq!(body.take(&endless), Ok(Taken::More));
        assert!(matches!(body.take(b"wide\r\n"), Err(Malformed::Chunk(_))));
        assert!(matches!(Body::ChunkEnd.take(b"more"), Err(Malformed::Chunk(_))));
    }
}
