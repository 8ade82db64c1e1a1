//! A web server of a story, whose answers change at the same URL: so that a cause can go away.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

const PAGE: &[u8] = b"<!DOCTYPE html>\n<html><body>Please sign in.</body></html>\n";

/// What a path is answered with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The file.
    File(Vec<u8>),
    /// The length of the file, and half of it.
    Truncated(Vec<u8>),
    /// A web page, with status 200.
    Page,
    /// Nothing, for as long as the client waits.
    Silence,
}

type Answers = Arc<Mutex<HashMap<String, Answer>>>;

/// A web server on a port of its own; what it knows nothing of is answered with 404.
pub struct Server {
    address: SocketAddrV4,
    answers: Answers,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Server {
    /// Finds a port; connections are refused until [`Server::open`].
    ///
    /// # Errors
    /// When the address is not one of this machine's.
    pub fn closed(address: Ipv4Addr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).with_context(|| format!("listen on {address}"))?;
        let address = SocketAddrV4::new(address, listener.local_addr()?.port());
        Ok(Self { address, answers: Answers::default(), running: None })
    }

    /// Serves, in threads of its own, until it is dropped.
    ///
    /// # Errors
    /// When somebody else has taken the port.
    pub fn open(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).with_context(|| format!("listen on {}", self.address))?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), self.answers.clone());
        let stopped = stop.clone();
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let answers = answers.clone();
                // A client that goes away is its own business.
                thread::spawn(move || drop(serve(stream, &answers)));
            }
        };
        self.running = Some((stop, thread::spawn(accept)));
        Ok(())
    }

    /// From now on, this path is answered so.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), answer);
    }

    /// Where a path is served.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some((stop, accept)) = self.running.take() else { return };
        stop.store(true, Ordering::Relaxed);
        // It waits for a client.
        drop(TcpStream::connect_timeout(&self.address.into(), Duration::from_secs(1)));
        let _ = accept.join();
    }
}

fn serve(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    let (status, kind, body, sent) = match &answer {
        None => ("404 Not Found", "text/plain", &b"not found\n"[..], 10),
        Some(Answer::File(bytes)) => ("200 OK", "application/octet-stream", &bytes[..], bytes.len()),
        Some(Answer::Truncated(bytes)) => ("200 OK", "application/octet-stream", &bytes[..], bytes.len() / 2),
        Some(Answer::Page) => ("200 OK", "text/html", PAGE, PAGE.len()),
        // Until the client closes its end.
        Some(Answer::Silence) => return io::copy(&mut stream, &mut io::sink()).map(drop),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if request.starts_with("HEAD ") { Ok(()) } else { stream.write_all(&body[..sent]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn get(server: &Server, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(server.address)?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn answers_change_at_the_same_url() {
        let mut server = Server::closed(Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(get(&server, "a").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        server.open().unwrap();
        assert!(get(&server, "a").unwrap().starts_with("HTTP/1.1 404"));
        server.answer("a", Answer::Page);
        assert!(get(&server, "a").unwrap().contains("text/html"));
        server.answer("a", Answer::Truncated(vec![b'x'; 10]));
        assert!(get(&server, "a").unwrap().ends_with("Content-Length: 10\r\nConnection: close\r\n\r\nxxxxx"));
        server.answer("a", Answer::File(vec![b'x'; 10]));
        assert!(get(&server, "a").unwrap().ends_with("\r\n\r\nxxxxxxxxxx"));
    }

    #[test]
    fn silence_lasts_as_long_as_the_client_waits() {
        let mut server = Server::closed(Ipv4Addr::LOCALHOST).unwrap();
        server.open().unwrap();
        server.answer("a", Answer::Silence);
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        write!(stream, "GET /a HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
