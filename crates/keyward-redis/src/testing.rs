//! A private Redis for tests, behind the feature `testing`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what fails here ends a test"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use tempfile::TempDir;

/// A private `redis-server` on the loopback interface, with a temporary directory.
///
/// It ends with this value. Nothing is written to the disk.
///
/// ```no_run
/// use keyward_redis::testing::RedisServer;
///
/// if let Some(mut server) = RedisServer::start() {
///     assert_eq!(server.command("PING"), "+PONG\r\n");
///     server.restart(); // it has forgotten everything
/// }
/// ```
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: TempDir,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts a server; `None` if the environment variable `KEYWARD_NO_REDIS` is set.
    ///
    /// # Panics
    /// Panics if there is no `redis-server`.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with options, such as `["--maxmemory", "2mb"]`.
    ///
    /// # Panics
    /// Panics if there is no `redis-server`.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Option<Self> {
        if env::var_os("KEYWARD_NO_REDIS").is_some() {
            // Written past the capture of a test's output.
            let told = b"NOT RUN: tests with Redis, because KEYWARD_NO_REDIS is set\n";
            std::io::stderr().write_all(told).unwrap();
            return None;
        }
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        // Another process may take the port first.
        let mut started = (0..20).map(|_| Self::on_port(free_port(), options.clone()));
        let server = started.find_map(|server| server);
        Some(server.expect("redis-server starts"))
    }

    fn on_port(port: u16, options: Vec<String>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(port, &folder, &options);
        let mut server = Self {
            child,
            port,
            folder,
            options,
        };
        server.is_up().then_some(server)
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the reply to an inline command, as bytes of the protocol.
    ///
    /// # Panics
    /// Panics if the server does not answer within five seconds.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap()
    }

    fn try_command(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let reply = reply.strip_suffix("+OK\r\n").unwrap_or(&reply);
        Ok(reply.to_owned())
    }

    /// Kills the server, as `kill -9` does.
    ///
    /// # Panics
    /// Panics if the process cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills the server and starts an empty one on the same port.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts an empty server on the same port, after [`kill`](Self::kill).
    ///
    /// # Panics
    /// Panics if it does not start.
    pub fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.options);
        assert!(self.is_up(), "redis-server does not start again");
    }

    /// Freezes the server, as SIGSTOP does: connections stay open, and nothing is answered.
    ///
    /// # Panics
    /// Panics if there is no command `kill`.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    /// Panics if there is no command `kill`.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args([signal, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success(), "kill {signal}");
    }

    /// Waits until the server answers; `false` if it has ended.
    fn is_up(&mut self) -> bool {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(20) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self
                .try_command("PING")
                .is_ok_and(|reply| reply.contains("PONG") || reply.contains("NOAUTH"))
            {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, options: &[String]) -> Child {
    let mut server = Command::new("redis-server");
    server.args([
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--port",
    ]);
    server
        .arg(port.to_string())
        .arg("--dir")
        .arg(folder.path())
        .args(options);
    let server = server.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    server.unwrap_or_else(|error| {
        panic!(
            "the tests with Redis did not run: no redis-server ({error}). Install it, as \
             scripts/test does, or set KEYWARD_NO_REDIS=1"
        )
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
