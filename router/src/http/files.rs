//! `/v1/files`.

use std::sync::Arc;

use axum::{
    Json, Router as Routes,
    body::Body,
    extract::{
        DefaultBodyLimit, Multipart, Path, Query as RawQuery, State,
        multipart::{Field, MultipartError, MultipartRejection},
        rejection::QueryRejection,
    },
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::{error, listing::Query, params::missing};
use crate::{
    batch::{BatchError, Batches, FileRecord, Purpose, Upload},
    error::RequestError,
    router::Router,
};

/// Of a list.
const MAX_PAGE: usize = 10_000;
/// Bytes of a field that isn't the file, and of a file's name.
const MAX_FIELD: usize = 256;
/// Bytes that are read at one time.
const BUFFER: usize = 64 << 10;

pub(super) fn routes() -> Routes<Arc<Router>> {
    // An upload counts its own bytes.
    Routes::new()
        .route("/v1/files", get(list).post(upload).layer(DefaultBodyLimit::disable()))
        .route("/v1/files/{id}", get(one).delete(remove))
        .route("/v1/files/{id}/content", get(content))
}

/// Files and batches, unless this router has none.
pub(super) fn batches(router: &Router) -> Result<&Arc<Batches>, BatchError> {
    router.batches.as_ref().ok_or(BatchError::Off)
}

/// An object, or why there is none.
pub(super) fn respond(answer: Result<Value, BatchError>) -> Response {
    match answer {
        Ok(object) => Json(object).into_response(),
        Err(error) => error::batch_response(&error),
    }
}

/// What the query has, each name once.
pub(super) type Asked = Result<RawQuery<std::collections::HashMap<String, String>>, QueryRejection>;

pub(super) fn query(asked: Asked) -> Result<Query, RequestError> {
    let malformed = |rejection: QueryRejection| RequestError::Invalid {
        param: None,
        code: None,
        message: format!("the query could not be read: {rejection}"),
    };
    asked.map(|RawQuery(query)| Query(query)).map_err(malformed)
}

async fn list(State(router): State<Arc<Router>>, asked: Asked) -> Response {
    let answer = || {
        let batches = batches(&router)?;
        let query = query(asked)?;
        let purpose = query.text("purpose");
        let files = batches.files().into_iter();
        let files = files.filter(|file| purpose.is_none_or(|name| file.purpose.name() == name));
        let objects = files.map(|file| file.object()).collect();
        Ok(query.page(MAX_PAGE, MAX_PAGE)?.of(objects)?)
    };
    respond(answer())
}

async fn one(State(router): State<Arc<Router>>, Path(id): Path<String>) -> Response {
    respond(batches(&router).and_then(|batches| Ok(batches.file(&id)?.object())))
}

async fn remove(State(router): State<Arc<Router>>, Path(id): Path<String>) -> Response {
    let answer = async {
        let id = batches(&router)?.delete_file(&id).await?;
        Ok(json!({ "id": id, "object": "file", "deleted": true }))
    };
    respond(answer.await)
}

async fn content(State(router): State<Arc<Router>>, Path(id): Path<String>) -> Response {
    let answer = async {
        let batches = batches(&router)?;
        let record = batches.file(&id)?;
        let opened = tokio::fs::File::open(batches.content(record.id)).await;
        // It may have been deleted just now.
        let file = opened.map_err(|_| BatchError::NoFile { given: record.id.to_string() })?;
        let body = Body::from_stream(ReaderStream::with_capacity(file, BUFFER));
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, record.bytes.to_string()),
        ];
        Ok((headers, body).into_response())
    };
    answer.await.unwrap_or_else(|error: BatchError| error::batch_response(&error))
}

async fn upload(
    State(router): State<Arc<Router>>,
    form: Result<Multipart, MultipartRejection>,
) -> Response {
    let answer = async {
        let batches = batches(&router)?;
        let form = form.map_err(|rejection| malformed(&rejection.to_string()))?;
        Ok(receive(batches, form).await?.object())
    };
    respond(answer.await)
}

/// Takes the fields as they come, in any order.
async fn receive(batches: &Arc<Batches>, mut form: Multipart) -> Result<FileRecord, BatchError> {
    let (mut purpose, mut file) = (None, None);
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        match field.name().unwrap_or_default() {
            "purpose" => purpose = Some(short(field).await?),
            "file" if file.is_none() => file = Some(store(batches, field).await?),
            "file" => {
                let message = "Invalid 'file': send one file with each request.";
                return Err(RequestError::invalid("file", "invalid_value", message).into());
            }
            name if name.starts_with("expires_after") => {
                let message = "Unsupported value: files are kept until they are deleted.";
                let error = RequestError::invalid("expires_after", "unsupported_value", message);
                return Err(error.into());
            }
            _ => drop(short(field).await?),
        }
    }
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    if purpose != Purpose::Batch.name() {
        let message = format!("Invalid value: '{purpose}'. The supported purpose is 'batch'.");
        return Err(RequestError::invalid("purpose", "invalid_value", message).into());
    }
    let (upload, name) = file.ok_or_else(|| missing("file"))?;
    upload.keep(name).await
}

async fn store(
    batches: &Arc<Batches>,
    mut field: Field<'_>,
) -> Result<(Upload, String), BatchError> {
    let name = field.file_name().unwrap_or("upload.jsonl").to_owned();
    if name.len() > MAX_FIELD {
        let given = name.len();
        let message = format!("the file's name has {given} bytes; at most {MAX_FIELD} are allowed");
        return Err(RequestError::invalid("file", "invalid_value", message).into());
    }
    let mut upload = Upload::begin(batches).await?;
    while let Some(bytes) = field.chunk().await.map_err(|error| broken(&error))? {
        upload.write(&bytes).await?;
    }
    Ok((upload, name))
}

/// A field's text.
async fn short(mut field: Field<'_>) -> Result<String, RequestError> {
    let name = field.name().unwrap_or_default().chars().take(64).collect::<String>();
    let mut text = Vec::new();
    while let Some(bytes) = field.chunk().await.map_err(|error| broken(&error))? {
        text.extend_from_slice(&bytes);
        if text.len() > MAX_FIELD {
            let message = format!("'{name}' has more than {MAX_FIELD} bytes.");
            return Err(RequestError::invalid(name, "invalid_value", message));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn broken(error: &MultipartError) -> RequestError {
    malformed(&error.body_text())
}

fn malformed(problem: &str) -> RequestError {
    let message = format!(
        "We could not parse your request as multipart/form-data with 'purpose' and 'file': {problem}"
    );
    RequestError::Invalid { param: None, code: None, message }
}
