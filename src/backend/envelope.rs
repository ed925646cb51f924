//! MAIL and RCPT as they are written to a backend.
//!
//! Addresses and parameters go as the client wrote them. Both were parsed, so they hold no CR, LF or NUL and
//! cannot end the line early.

use crate::proto::dialogue::{Recipient, Sender};
use crate::proto::ehlo::{Extensions, Keyword};

/// The transaction uses an extension the backend lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backend does not offer {}", .0.as_str())]
pub struct EnvelopeFault(pub Keyword);

/// `MAIL FROM:<…> …` with CRLF, for a backend that announced `announced`. So many octets are `added` to the message,
/// and so to its SIZE.
///
/// # Errors
/// The extension the sender's parameters need and the backend lacks.
pub fn mail_command(sender: &Sender, announced: &Extensions, added: u64) -> Result<String, EnvelopeFault> {
    let mut line = format!("MAIL FROM:<{}>", sender.written());
    sender.parameters.write(announced, added, &mut line).map_err(EnvelopeFault)?;
    line.push_str("\r\n");
    Ok(line)
}

/// `RCPT TO:<…> …` with CRLF, for a backend that announced `announced`.
///
/// # Errors
/// The extension the recipient needs and the backend lacks.
pub fn rcpt_command(recipient: &Recipient, announced: &Extensions) -> Result<String, EnvelopeFault> {
    if !recipient.mailbox.is_ascii() && !announced.has(Keyword::SmtpUtf8) {
        return Err(EnvelopeFault(Keyword::SmtpUtf8));
    }
    let mut line = format!("RCPT TO:<{}>", recipient.mailbox.written());
    recipient.parameters.write(announced, 0, &mut line).map_err(EnvelopeFault)?;
    line.push_str("\r\n");
    Ok(line)
}
