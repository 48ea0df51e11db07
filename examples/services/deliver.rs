//! Calls another server, once: a webhook's receiver, or the service, for a customer's own server.

use std::io::{Error, Result};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Posts JSON to an `http://` URL with these fields, and gives the answer's status and JSON.
///
/// # Errors
/// When the URL is none of that sort, nobody is there, or what answers is no server.
pub async fn deliver(url: &str, fields: &[(&str, String)], json: &str) -> Result<(u16, Value)> {
    let rest = url.strip_prefix("http://");
    let (host, path) = rest
        .and_then(|rest| rest.split_once('/'))
        .ok_or(Error::other("not a URL"))?;
    let length = json.len();
    let mut request = format!(
        "POST /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n"
    );
    for (name, value) in fields {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.extend(["\r\n", json]);
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status = status.ok_or(Error::other("not an answer"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}
