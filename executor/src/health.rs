//! Liveness and readiness for the kubelet: `GET /healthz`, `GET /readyz`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::lease::Session;

/// A request line is short; what comes after it does not matter.
const LONGEST_REQUEST: usize = 1024;

/// Answers for as long as the process lives. Ready: the session has begun.
pub async fn serve(listener: TcpListener, session: Session) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ready = session.current().is_some();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, ready).await {
                        tracing::debug!(%error, "a health request ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a health request");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, ready: bool) -> std::io::Result<()> {
    let mut request = vec![0; LONGEST_REQUEST];
    let length = stream.read(&mut request).await?;
    stream.write_all(response(&request[..length], ready).as_bytes()).await?;
    stream.shutdown().await
}

fn response(request: &[u8], ready: bool) -> String {
    let (status, text) = match request.split(|byte| *byte == b' ').nth(1) {
        Some(b"/healthz") => ("200 OK", "ok"),
        Some(b"/readyz") if ready => ("200 OK", "ok"),
        Some(b"/readyz") => ("503 Service Unavailable", "no session yet: libvirt or the API server cannot be reached"),
        _ => ("404 Not Found", "ask for /healthz or /readyz"),
    };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_not_ready() {
        let code = |request: &str, ready| response(request.as_bytes(), ready).split(' ').nth(1).unwrap().to_owned();
        assert_eq!(code("GET /healthz HTTP/1.1\r\n", false), "200");
        assert_eq!(code("GET /readyz HTTP/1.1\r\n", false), "503");
        assert_eq!(code("GET /readyz HTTP/1.1\r\n", true), "200");
        assert_eq!(code("GET / HTTP/1.1\r\n", true), "404");
        assert_eq!(code("", true), "404");
    }
}
