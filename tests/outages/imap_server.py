"""A small IMAP4rev1 server (RFC 3501) on loopback: enough of it for a client that logs in, opens a folder and searches.

It is a real server on a socket, for the standard library's own client; it keeps its messages in memory.
"""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Mailbox:
    """What the server holds and how it behaves.

    Attributes:
        user: who may log in.
        password: with what.
        folders: raw messages by folder.
        mute_after: number of commands after which it answers nothing any more; None answers all.
        seen: commands that it got, without the password.
    """

    user: str = "seed@shop.example"
    password: str = 'pass "word"'
    folders: dict[str, list[str]] = field(default_factory=lambda: {"INBOX": []})
    mute_after: int | None = None
    seen: list[str] = field(default_factory=list)


class ImapServer:
    """Serves one mailbox until it is closed."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        mailbox = self.mailbox

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self._say("* OK IMAP4rev1 ready")
                    folder: list[str] | None = None
                    while line := self.rfile.readline().decode().rstrip("\r\n"):
                        if mailbox.mute_after is not None and len(mailbox.seen) >= mailbox.mute_after:
                            time.sleep(2)
                            return
                        tag, _, rest = line.partition(" ")
                        words = [
                            (quoted.replace('\\"', '"').replace("\\\\", "\\") if quoted else bare)
                            for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', rest)
                        ]
                        command = words[0].upper()
                        mailbox.seen.append(command if command == "LOGIN" else rest)
                        if command == "CAPABILITY":
                            self._say("* CAPABILITY IMAP4rev1")
                        elif command == "LOGIN":
                            if words[1:] != [mailbox.user, mailbox.password]:
                                self._say(f"{tag} NO wrong")
                                continue
                        elif command in ("SELECT", "EXAMINE"):
                            folder = mailbox.folders.get(words[1])
                            if folder is None:
                                self._say(f"{tag} NO no such folder")
                                continue
                            self._say(f"* {len(folder)} EXISTS")
                        elif command == "UID" and folder is not None:
                            name, text = words[3], words[4]
                            found = [
                                str(number)
                                for number, message in enumerate(folder, start=1)
                                if re.search(
                                    rf"(?im)^{re.escape(name)}:.*{re.escape(text)}", message.split("\n\n")[0]
                                )
                            ]
                            self._say(" ".join(["* SEARCH", *found]))
                        elif command == "LOGOUT":
                            self._say("* BYE")
                            self._say(f"{tag} OK done")
                            return
                        self._say(f"{tag} OK done")

            def _say(self, text: str) -> None:
                self.wfile.write(text.encode() + b"\r\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Session)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, folder: str = "INBOX") -> str:
        return f"imap://seed%40shop.example@127.0.0.1:{self._server.server_address[1]}/{folder}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
