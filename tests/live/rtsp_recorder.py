# SPDX-License-Identifier: Apache-2.0
"""An RTSP server that takes what is pushed to rtsp://127.0.0.1:PORT/live and keeps its H.264 in a file.

Run by Debian's Python, whose GStreamer it needs: ``rtsp_recorder.py PORT FILE [USER PASSWORD]``.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
port, path, *login = sys.argv[1:]
server = GstRtspServer.RTSPServer()
server.set_service(port)
server.set_address("127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
keep = "video/x-h264,stream-format=byte-stream,alignment=au"
factory.set_launch(
    f"( rtph264depay name=depay0 ! h264parse config-interval=-1 ! {keep} ! filesink append=true sync=false "
    f"buffer-mode=unbuffered location={path} )"
)
if login:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*login), token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.from_string("user,media.factory.access=true,media.factory.construct=true")[0]
    )
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
