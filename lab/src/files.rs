//! The lab's file server: guest images over http, and every way in which such a server fails.
//!
//! | path | answer |
//! |---|---|
//! | `/NAME` | the file; `?rate=N` sends N bytes a second |
//! | `/hang/NAME` | nothing, for as long as the client waits |
//! | `/truncated/NAME` | the file's length, and half of its bytes |
//! | `/html/NAME` | a web page, with status 200 |
//! | `/redirect/NAME` | status 302 to `/NAME`, with the query |
//! | `/status/CODE` | this status |
//! | `/count/TARGET` | how many GETs of `/TARGET` (path and query as they were asked for) there were |
//!
//! A query that the server does not know is ignored, so that a test can make a URL of its own: `/tiny.qcow2?test=a`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Component, Path},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::Result;

const PAGE: &[u8] = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n";

type Counts = Mutex<HashMap<String, u64>>;

/// A request, as far as the server looks at it.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    head_only: bool,
    target: String,
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let head_only = match words.next()? {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        Some(Self { head_only, target: words.next()?.to_owned() })
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn rate(&self) -> Option<u64> {
        let query = self.target.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix("rate="))?.parse().ok().filter(|rate| *rate > 0)
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    File { name: &'a str, truncated: bool },
    Hang,
    Page,
    Redirect(&'a str),
    Status(u16),
    Count(&'a str),
}

fn answer(request: &Request) -> Answer<'_> {
    let path = request.path().trim_start_matches('/');
    let after = |prefix: &str| request.target.trim_start_matches('/').strip_prefix(prefix).unwrap_or_default();
    match path.split_once('/') {
        Some(("hang", _)) => Answer::Hang,
        Some(("truncated", name)) => Answer::File { name, truncated: true },
        Some(("html", _)) => Answer::Page,
        Some(("redirect", _)) => Answer::Redirect(after("redirect")),
        Some(("count", _)) => Answer::Count(after("count")),
        Some(("status", code)) => Answer::Status(code.parse().unwrap_or(404)),
        _ => Answer::File { name: path, truncated: false },
    }
}

/// Serves the files in `dir`, for ever; each connection in a thread of its own.
///
/// # Errors
/// When the listener fails.
pub fn serve(listener: &TcpListener, dir: &Path) -> Result<()> {
    let counts = Counts::default();
    thread::scope(|scope| {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let counts = &counts;
                    // A client that goes away is its own business.
                    scope.spawn(move || drop(serve_one(stream, dir, counts)));
                }
                // Out of descriptors, or the client has gone already: the next may succeed.
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })
}

fn serve_one(stream: TcpStream, dir: &Path, counts: &Counts) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(64 << 10)).lines();
    let Some(request) = lines.next().transpose()?.as_deref().and_then(Request::parse) else {
        return respond(&stream, 400, "text/plain", b"bad request\n", false);
    };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    if !request.head_only {
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(request.target.clone()).or_default() += 1;
    }
    match answer(&request) {
        Answer::File { name, truncated } => send_file(&stream, dir, name, truncated, &request),
        Answer::Hang => {
            // Until the client closes its end.
            io::copy(&mut &stream, &mut io::sink()).map(drop)
        }
        Answer::Page => respond(&stream, 200, "text/html", PAGE, request.head_only),
        Answer::Redirect(target) => {
            write!(
                &stream,
                "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }
        Answer::Status(code) => respond(&stream, code, "text/plain", b"as you asked\n", request.head_only),
        Answer::Count(target) => {
            let count = counts.lock().unwrap_or_else(PoisonError::into_inner).get(target).copied().unwrap_or(0);
            respond(&stream, 200, "text/plain", format!("{count}\n").as_bytes(), request.head_only)
        }
    }
}

fn respond(mut stream: &TcpStream, code: u16, kind: &str, body: &[u8], head_only: bool) -> io::Result<()> {
    write_head(stream, code, kind, body.len() as u64)?;
    if head_only { Ok(()) } else { stream.write_all(body) }
}

fn write_head(mut stream: &TcpStream, code: u16, kind: &str, length: u64) -> io::Result<()> {
    let reason = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Status",
    };
    write!(
        stream,
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn send_file(mut stream: &TcpStream, dir: &Path, name: &str, truncated: bool, request: &Request) -> io::Result<()> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let file = Some(dir.join(name)).filter(|path| inside && path.is_file()).and_then(|path| File::open(path).ok());
    let Some(file) = file else {
        return respond(stream, 404, "text/plain", b"not found\n", request.head_only);
    };
    let length = file.metadata()?.len();
    write_head(stream, 200, "application/octet-stream", length)?;
    if request.head_only {
        return Ok(());
    }
    let mut body = file.take(if truncated { length / 2 } else { length });
    let Some(rate) = request.rate() else {
        return io::copy(&mut body, &mut stream).map(drop);
    };
    let (started, mut sent, mut buffer) = (Instant::now(), 0, vec![0; (rate / 10).clamp(1, 64 << 10) as usize]);
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
        sent += read as u64;
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The whole answer of a server with one file, `a.bin`, of 1000 bytes.
    fn get(targets: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.bin"), [b'x'; 1000]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener, dir.path()));
        let ask = |target: &&str| {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        targets.iter().map(ask).collect()
    }

    #[test]
    fn files_come_whole_and_truncated() {
        let answers = get(&["/a.bin", "/truncated/a.bin", "/b.bin", "/../a.bin"]);
        for (answer, bytes) in answers.iter().zip([1000, 500]) {
            assert!(answer.contains("Content-Length: 1000\r\n"));
            assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), bytes);
        }
        assert!(answers[2].starts_with("HTTP/1.1 404") && answers[3].starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn downloads_are_counted_by_path_and_query() {
        let answers = get(&["/a.bin?t=1", "/a.bin?t=1", "/a.bin", "/count/a.bin?t=1", "/count/none"]);
        assert!(answers[3].ends_with("\r\n\r\n2\n") && answers[4].ends_with("\r\n\r\n0\n"));
    }

    #[test]
    fn other_answers_are_had_for_the_asking() {
        let answers = get(&["/html/a.bin", "/redirect/a.bin?t=1", "/status/503"]);
        assert!(answers[0].contains("text/html") && answers[0].starts_with("HTTP/1.1 200"));
        assert!(answers[1].contains("Location: /a.bin?t=1\r\n"));
        assert!(answers[2].starts_with("HTTP/1.1 503"));
    }

    #[test]
    fn a_rate_slows_down() {
        let started = Instant::now();
        assert!(get(&["/a.bin?rate=5000"])[0].ends_with("xxx"));
        assert!(started.elapsed() > Duration::from_millis(150));
    }

    #[test]
    fn a_server_that_hangs_says_nothing() {
        let request = Request::parse("GET /hang/a.bin HTTP/1.1").unwrap();
        assert_eq!(answer(&request), Answer::Hang);
        assert_eq!(Request::parse("POST / HTTP/1.1"), None);
    }
}
