#!/bin/sh
# environment.sh FOLDER FILE...: a Python environment in FOLDER with the packages of the requirements FILEs, one
# after the other: pip checks hashes where a file has them, and then wants them for all that it installs at once.
# Only wheels are installed: building from source would download the build's requirements unpinned.
set -eu
folder=$1
shift

fail() {
    printf 'make: %s\n' "$@" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Install the PyTorch of a requirements file as its CPU build. Where pip's index has none, as PyPI for Linux, whose
# torch brings 25 CUDA packages of several GB, uv takes it from PyTorch's own index.
cpu_torch() {
    torch=$(grep -o '^torch==[^ ]*' "$1") || return 0
    if "$folder/bin/python" -m pip install --dry-run --quiet --report - "$torch" | grep -Eq '"name": "(nvidia|cuda)-'; then
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$(grep -o '^uv==[^ ]*' "$1")" &&
            "$folder/bin/python" -m uv pip install --quiet --python "$folder/bin/python" --torch-backend cpu "$torch" ||
            fail "PyTorch's index of CPU builds can't be reached, and pip's index would bring several GB of CUDA packages." \
                "Is the network up? Or install $torch into $folder yourself, and run the same command again."
    fi
}

# What an earlier list left there would contradict this one.
if [ -f "$folder/installed" ]; then
    rm -rf "$folder"
fi

if ! "$folder/bin/python" -c 'import pip' 2>/dev/null; then
    found=
    for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if new_enough "$python"; then
            found=$python
            break
        fi
    done
    [ "$found" ] || fail "Dropcap needs Python 3.11 or newer, and none was found." \
        "Install one (python.org, your package manager), or name it: make run PYTHON=/path/to/python3"
    "$found" -c 'import ensurepip, venv' 2>/dev/null || fail "$found can't make environments: venv is missing." \
        "On Debian and Ubuntu: sudo apt install $(basename "$found")-venv"
    rm -rf "$folder"
    "$found" -m venv "$folder" || fail "$found could not make the environment $folder."
fi

# What the packages are for may not be there: make model names its repository of the hub.
if [ "${HUB_MODEL-}" ]; then
    "$folder/bin/python" -m infra.local.hub "$HUB_MODEL" || exit 1
fi

echo "Installing packages into $folder (once; a minute or two) ..."
retries="--retries 1" # for the first file, pip itself: whether there is an index is known soon
for file in "$(dirname "$0")/pip.txt" "$@"; do
    cpu_torch "$file"
    "$folder/bin/python" -m pip freeze >"$folder/pins" # so that no file moves what an earlier one installed
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input $retries \
        --only-binary :all: --constraint "$folder/pins" --requirement "$file" ||
        fail "The packages could not be installed. Is the network up? The same command tries again."
    retries=
done
touch "$folder/installed"
