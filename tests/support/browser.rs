//! A real browser without a window: Debian's Chromium, spoken to in the DevTools protocol over two pipes.
//!
//! The pipes are its file descriptors 3 and 4, so there is no port that another run could have, and no WebSocket. Every
//! page counts what its own policy forbade, from before its first script on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::machine::Directory;
use super::{LOOK_AGAIN, PATIENCE};

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: mpsc::UnboundedReceiver<Value>,
    /// Events that came while an answer was waited for.
    events: VecDeque<Value>,
    session: String,
    number: u64,
    _profile: Directory,
}

/// How large the page is, and in which colours.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub name: &'static str,
    pub width: u32,
    pub height: u32,
    pub scheme: &'static str,
}

/// What people look at it with.
pub const VIEWS: [View; 4] = [
    View { name: "desktop-light", width: 1280, height: 900, scheme: "light" },
    View { name: "desktop-dark", width: 1280, height: 900, scheme: "dark" },
    View { name: "phone-light", width: 375, height: 812, scheme: "light" },
    View { name: "phone-dark", width: 375, height: 812, scheme: "dark" },
];

/// What every page is told before it begins.
const WATCH: &str = "window.violations = []; window.faults = []; window.ran = 0;\
    addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI));\
    addEventListener('error', (e) => faults.push(String(e.message)));\
    addEventListener('unhandledrejection', (e) => faults.push(String(e.reason)));";

/// Each text that is shown, with the colour it has and the one behind it (WCAG 2.2, "contrast ratio").
const CONTRAST: &str = r"(() => {
    const colour = (text) => {
        const parts = text.match(/^rgba?\(([^)]*)\)$/);
        if (!parts) throw new Error('a colour that cannot be measured: ' + text);
        const [r, g, b, a = 1] = parts[1].split(/[ ,\/]+/).map(Number);
        return { rgb: [r, g, b], a };
    };
    const over = (top, share, below) => top.map((value, i) => value * share + below[i] * (1 - share));
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + .05) / (low + .05);
    };
    // What is behind an element's text, and the groups of less than full opacity it is in, the outermost first.
    const behind = (element) => {
        const line = [];
        for (let e = element; e; e = e.parentElement) line.unshift(getComputedStyle(e));
        let ground = matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
        const groups = [];
        for (const style of line) {
            if (style.opacity < 1) groups.push({ share: Number(style.opacity), ground });
            const { rgb, a } = colour(style.backgroundColor);
            ground = over(rgb, a, ground);
        }
        return { ground, groups };
    };
    const seen = new Set();
    const faint = new Set();
    const measure = (element, style, text) => {
        const { ground, groups } = behind(element);
        const { rgb, a } = colour(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
        const through = (rgb) => groups.reduceRight((rgb, group) => over(rgb, group.share, group.ground), rgb);
        const found = ratio(through(over(rgb, a, ground)), through(ground));
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const pair = `${style.color} on ${ground.map(Math.round)} at ${style.fontSize}`;
        seen.add(text);
        if (found < (large ? 3 : 4.5)) faint.add(`${found.toFixed(2)}: ${text.slice(0, 40)} (${pair})`);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = texts.nextNode(); node; node = texts.nextNode()) {
        const element = node.parentElement;
        const range = document.createRange();
        range.selectNodeContents(node);
        const { width, height } = range.getBoundingClientRect();
        const shown = width > 0 && height > 0 && element.checkVisibility({ visibilityProperty: true });
        const exempt = element.closest('script, style, .hidden, .skip, :disabled');
        if (shown && !exempt && node.data.trim()) measure(element, getComputedStyle(element), node.data.trim());
    }
    for (const field of document.querySelectorAll('input:placeholder-shown')) {
        if (field.checkVisibility()) measure(field, getComputedStyle(field, '::placeholder'), field.placeholder);
    }
    return { seen: seen.size, faint: [...faint] };
})()";

impl Browser {
    /// Starts one on an empty page.
    ///
    /// # Panics
    /// When there is no Chromium; `tests/run` installs it.
    pub async fn start() -> Self {
        let profile = Directory::new("browser");
        let flags = format!(
            "--headless=new --hide-scrollbars --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions \
             --disable-background-networking --disable-component-update --remote-debugging-pipe --user-data-dir={}",
            profile.path().display()
        );
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec chromium {flags} about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let commands = child.stdin.take().expect("its input is a pipe");
        let output = child.stdout.take().expect("its output is a pipe");
        let (sender, messages) = mpsc::unbounded_channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut message = Vec::new();
            while matches!(output.read_until(0, &mut message), Ok(1..)) {
                message.pop();
                if let Ok(value) = serde_json::from_slice(&message) {
                    let _ = sender.send(value);
                }
                message.clear();
            }
        });
        let session = String::new();
        let mut browser = Self {
            child,
            commands,
            messages,
            events: VecDeque::new(),
            session,
            number: 0,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attached = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attached).await;
        attached["sessionId"].as_str().expect("it is attached").clone_into(&mut browser.session);
        browser.call("Page.enable", json!({})).await;
        browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH })).await;
        browser
    }

    /// Opens the live page at an admin endpoint.
    pub async fn open(&mut self, admin: SocketAddr) {
        self.call("Page.navigate", json!({ "url": format!("http://{admin}/") })).await;
        self.until("document.readyState === 'complete' && location.protocol === 'http:'").await;
    }

    /// The value of an expression of JavaScript.
    ///
    /// # Panics
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let given = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", given).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// What an element says.
    pub async fn text(&mut self, selector: &str) -> String {
        let found = self.evaluate(&format!("document.querySelector({})?.innerText", json!(selector))).await;
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// When it is not after [`PATIENCE`].
    pub async fn until(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(&format!("Boolean({expression})")).await != true {
            if Instant::now() >= deadline {
                let text = self.evaluate("document.body.innerText").await;
                panic!(
                    "{expression}: not within {PATIENCE:?}; the page says:\n{}",
                    text.as_str().unwrap_or_default()
                );
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Puts text where the cursor is, as typing would, in place of what is there.
    pub async fn type_into(&mut self, selector: &str, text: &str) {
        self.evaluate(&format!(
            "document.querySelector({0}).focus(), document.querySelector({0}).select()",
            json!(selector)
        ))
        .await;
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key: "Tab", "Enter" or " ".
    pub async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => (32, " "),
        };
        let key =
            |kind: &str| json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", key("keyDown")).await;
        self.call("Input.dispatchKeyEvent", key("keyUp")).await;
    }

    /// Shows the page at this size and in these colours.
    pub async fn view(&mut self, view: View) {
        let size = json!({ "width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": view.width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!([{ "name": "prefers-color-scheme", "value": view.scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": scheme })).await;
    }

    /// Keeps pictures of the page in every view, for whoever wants to look: `target/tmp/page-NAME-VIEW.png`.
    pub async fn picture(&mut self, name: &str) {
        for view in VIEWS {
            self.view(view).await;
            self.evaluate("scrollTo(0, 0)").await;
            // The page draws itself anew for its size.
            self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
                .await;
            let shot = self
                .call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }))
                .await;
            let file =
                PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}-{}.png", view.name));
            std::fs::write(file, decoded(shot["data"].as_str().expect("a picture")))
                .expect("our own directory");
        }
    }

    /// Fails the test if some text of the page is not told from what is behind it as WCAG 2.2 AA wants: 4.5 to 1, large text
    /// 3 to 1 (§1.4.3; what is disabled is exempt), or if the page shows next to none.
    pub async fn is_legible(&mut self) {
        for view in VIEWS {
            self.view(view).await;
            let found = self.evaluate(CONTRAST).await;
            assert_eq!(found["faint"], json!([]), "{view:?}");
            assert!(found["seen"].as_u64() > Some(10), "{view:?}: {found}");
        }
        self.view(VIEWS[0]).await;
        self.measures_contrast().await;
    }

    /// What is too faint, put there, is found: the measure measures.
    async fn measures_contrast(&mut self) {
        let put = |style: &str| {
            format!(
                "(() => {{ const p = document.createElement('p'); p.id = 'faint'; p.textContent = 'faint'; \
                 p.style.cssText = '{style}'; document.body.append(p); }})()"
            )
        };
        // 4.48 and 4.54 to 1; 2.85 and 3.03 for large text; black on white, but for its opacity.
        for (style, too_faint) in [
            ("color: #777; background: #fff; font-size: 16px", true),
            ("color: #767676; background: #fff; font-size: 16px", false),
            ("color: #999; background: #fff; font-size: 24px", true),
            ("color: #949494; background: #fff; font-size: 24px", false),
            ("color: #000; background: #fff; opacity: .3", true),
        ] {
            self.evaluate(&put(style)).await;
            let found = self.evaluate(CONTRAST).await;
            self.evaluate("document.getElementById('faint').remove()").await;
            assert_eq!(found["faint"] != json!([]), too_faint, "{style}: {found}");
        }
    }

    /// Fails the test if the page ran what it must not, was forbidden anything, or failed.
    pub async fn is_unharmed(&mut self) {
        let found = self.evaluate("({ violations, faults, ran })").await;
        assert_eq!(found, json!({ "violations": [], "faults": [], "ran": 0 }));
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut octets = command.to_string().into_bytes();
        octets.push(0);
        self.commands.write_all(&octets).expect("the browser runs; is chromium installed?");
        loop {
            let message = timeout(PATIENCE, self.messages.recv()).await.expect("an answer in time");
            let mut message =
                message.unwrap_or_else(|| panic!("the browser ended at {method}; is chromium installed?"));
            if message["id"] == self.number {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push_back(message);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RFC 4648 §4, of a text that is known to be it.
fn decoded(text: &str) -> Vec<u8> {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values = text.bytes().filter_map(|digit| digits.iter().position(|d| *d == digit));
    let (mut octets, mut bits, mut held) = (Vec::new(), 0_usize, 0);
    for value in values {
        bits = (bits << 6 | value) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            octets.push(u8::try_from(bits >> held & 0xff).expect("eight bits"));
        }
    }
    octets
}
