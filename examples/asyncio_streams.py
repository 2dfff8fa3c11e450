# SPDX-License-Identifier: Apache-2.0
"""A server in asyncio whose loop never waits for the engine: each connection is a stream, and they take turns.

    python examples/asyncio_streams.py

It says on which port of the loopback it listens, and ends at Ctrl+C. A client sends ``WIDTHxHEIGHT`` and a newline,
then bgr24 frames one after the other, and gets as many restored ones.
"""

import asyncio
import contextlib

import numpy as np

import crispstream
from crispstream.pool import PoolStream


def restore(stream: PoolStream, pixels: bytes, width: int, height: int) -> bytes:
    """One frame in, one out. Blocks, so it runs in a thread."""
    stream.submit(crispstream.Frame.from_array(np.frombuffer(pixels, np.uint8).reshape(height, width, 3)))
    return next(stream).planes[0].tobytes()


async def serve(pool: crispstream.DeblurrerPool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client, until it has no more frames."""
    try:
        width, height = map(int, (await reader.readline()).split(b"x"))
        with pool.open_stream() as stream:
            while True:
                pixels = await reader.readexactly(width * height * 3)
                writer.write(await asyncio.to_thread(restore, stream, pixels, width, height))
                await writer.drain()
    except ValueError:
        writer.write(b"send WIDTHxHEIGHT and a newline first\n")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass  # the client has gone, or the server goes
    finally:
        writer.close()


async def listen(pool: crispstream.DeblurrerPool) -> None:
    """Accept clients on a free port."""
    server = await asyncio.start_server(lambda r, w: serve(pool, r, w), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """One engine for all clients."""
    with crispstream.Deblurrer("nano") as deblur, crispstream.DeblurrerPool(deblur) as pool:
        asyncio.run(listen(pool))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
