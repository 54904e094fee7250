//! prometheus-node-exporter over a tree of files, to be compared with: what the field reads of the
//! same files.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Where Debian has it.
const PROGRAM: &str = "/usr/bin/prometheus-node-exporter";
/// How long anything may take.
const BOUND: Duration = Duration::from_secs(30);
/// How often another port is tried.
const ATTEMPTS: usize = 5;

/// A running exporter on loopback; ends with its value.
#[derive(Debug)]
pub struct NodeExporter {
    child: Child,
    address: SocketAddr,
    root: String,
}

impl NodeExporter {
    /// Why there can be none, if so.
    pub fn obstacle() -> Option<&'static str> {
        let missing = "prometheus-node-exporter is missing; `cargo xtask setup --dev` installs it";
        (!Path::new(PROGRAM).exists()).then_some(missing)
    }

    /// Starts one that reads `/proc` and `/sys` below `root`, with these collectors alone.
    ///
    /// # Errors
    ///
    /// It doesn't listen.
    pub fn start(root: &Path, collectors: &[&str]) -> Result<Self> {
        // Between this and the exporter's own, somebody else may take the port: then the next one.
        for _ in 0..ATTEMPTS {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = free.local_addr()?;
            drop(free);
            let mut child = Command::new(PROGRAM)
                .arg(format!("--web.listen-address={address}"))
                .arg(format!("--path.sysfs={}/sys", root.display()))
                .arg(format!("--path.procfs={}/proc", root.display()))
                .arg("--collector.disable-defaults")
                // Else it asks this machine's kernel.
                .arg("--no-collector.netdev.netlink")
                .arg("--no-collector.netclass.netlink")
                .args(collectors.iter().map(|it| format!("--collector.{it}")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .context("the exporter can't be started")?;
            let said = child.stderr.take().context("no errors to hear")?;
            let exporter = Self {
                child,
                address,
                root: root.display().to_string(),
            };
            let (ready, listens) = mpsc::channel();
            // It hears on after the good news, or the exporter would wait for its reader.
            thread::spawn(move || {
                for line in BufReader::new(said).lines().map_while(Result::ok) {
                    if line.contains("Listening on") {
                        // Nobody waits any more.
                        let _ = ready.send(());
                    }
                }
            });
            if listens.recv_timeout(BOUND).is_ok() {
                return Ok(exporter);
            }
        }
        bail!("the exporter doesn't listen")
    }

    /// Its page; the tree's own place is called ROOT.
    ///
    /// # Errors
    ///
    /// It doesn't answer.
    pub fn page(&self) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, page) = answer.split_once("\r\n\r\n").context("no page")?;
        ensure!(head.starts_with("HTTP/1.0 200"), "{answer}");
        Ok(page.replace(&self.root, "ROOT"))
    }

    /// All its series by their names with labels.
    ///
    /// # Errors
    ///
    /// It doesn't answer.
    pub fn series(&self) -> Result<BTreeMap<String, f64>> {
        Ok(series(&self.page()?))
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The series of a page in the classic format, by their names with sorted labels. No label of it
/// may hold a comma.
pub fn series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let series = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((sorted(name), value.parse().ok()?))
    });
    series.collect()
}

fn sorted(name: &str) -> String {
    let Some((family, labels)) = name.split_once('{') else {
        return name.to_owned();
    };
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{family}{{{}}}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_in_order() {
        let page = "# TYPE a gauge\na{y=\"2\",x=\"1\"} 3\nb 4e+00\nc x\n";
        let wanted = [
            ("a{x=\"1\",y=\"2\"}".to_owned(), 3.0),
            ("b".to_owned(), 4.0),
        ];
        assert_eq!(series(page), BTreeMap::from(wanted));
    }
}
