"""Serve the stand-in for the Gemini API until interrupted."""

import argparse

from infra.local.gemini import server


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m infra.local.gemini",
        description=server.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    stand_in = server.GeminiStandIn(parser.parse_args().port)
    print(f"Gemini stand-in on {stand_in.url}", flush=True)
    try:
        stand_in.serve()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
