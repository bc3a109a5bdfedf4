"""A message with an attachment by smtplib: ``smtp_client.py HOST PORT``."""

from __future__ import annotations

import smtplib
import sys
from email.message import EmailMessage

message = EmailMessage()
message["From"] = "anne@example.com"
message["To"] = "bart@example.com"
message["Subject"] = "by smtplib"
message.set_content("The text of the message.\n")
message.add_attachment(bytes(range(256)) * 1024, maintype="application", subtype="octet-stream")

with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), local_hostname="client", timeout=100) as smtp:
    refused = smtp.send_message(message)
    print(f"refused: {refused or 'nobody'}")
    print(f"then: {smtp.noop()}")
