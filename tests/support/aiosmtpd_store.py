"""A mail store on aiosmtpd that keeps each message as it came.

    aiosmtpd_store.py DIRECTORY MAILBOX...

Prints its port on a line of its own. Takes mail for the mailboxes and refuses all other recipients. Each message
becomes two files in DIRECTORY: N.message, its octets without the doubled dots, and then N.envelope, a JSON object with
"sender" and "recipients". When standard input ends it accepts no more connections, and ends with the last of them.
"""

import asyncio
import json
import pathlib
import sys

from aiosmtpd.smtp import SMTP


class Store:
    """What aiosmtpd calls a handler."""

    def __init__(self, directory, mailboxes):
        self.directory = directory
        self.mailboxes = mailboxes
        self.taken = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address not in self.mailboxes:
            return f"550 5.1.1 <{address}>: no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        name = self.directory / str(self.taken)
        self.taken += 1
        name.with_suffix(".message").write_bytes(envelope.original_content)
        written = name.with_suffix(".part")
        written.write_text(json.dumps({"sender": envelope.mail_from, "recipients": envelope.rcpt_tos}))
        written.rename(name.with_suffix(".envelope"))
        return "250 2.0.0 Ok"


class Session(SMTP):
    """One session, counted."""

    # RFC 5321 section 4.5.3.1.6 asks for 1000 octets at least.
    line_length_limit = 1 << 20
    running = set()

    def connection_made(self, transport):
        self.running.add(self)
        super().connection_made(transport)

    def connection_lost(self, error):
        super().connection_lost(error)
        self.running.discard(self)


async def serve(directory, mailboxes):
    loop = asyncio.get_running_loop()
    store = Store(directory, mailboxes)
    options = {"hostname": "aiosmtpd.test", "data_size_limit": 0, "enable_SMTPUTF8": True, "loop": loop}
    server = await loop.create_server(lambda: Session(store, **options), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()
    while Session.running:
        await asyncio.sleep(0.01)


asyncio.run(serve(pathlib.Path(sys.argv[1]), set(sys.argv[2:])))
