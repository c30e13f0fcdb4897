#!/usr/bin/env bash
# Install Beholder as a user does, use it, and remove it:
#
#   packaging/try_install.sh [--torch FOLDER] [--constraints FILE] [--cache FOLDER] uv|pipx PACKAGE
#
# PACKAGE is a wheel, an sdist or a checkout. Into an empty home, uv or pipx (from PyPI) install it with PyTorch's CPU
# build; it classifies and captions a photograph, indexes and searches an album, and answers as a server; it is
# uninstalled, and only the user's own data may be left. Prints what that took.
#
#   --torch FOLDER      take PyTorch's wheel from this folder instead of download.pytorch.org
#   --constraints FILE  take the versions of this file instead of the newest
#   --cache FOLDER      use this cache of Beholder instead of an empty one, so that nothing is downloaded or compiled
#
# PYTHON is the interpreter to use (python3).
set -euo pipefail

torch_folder='' constraints='' cache=''
while [ $# -gt 2 ]; do
    case $1 in
        --torch) torch_folder=$(realpath "$2") ;;
        --constraints) constraints=$(realpath "$2") ;;
        --cache) cache=$(realpath "$2") ;;
        *) echo "unknown option: $1" >&2; exit 2 ;;
    esac
    shift 2
done
if [ $# -ne 2 ]; then sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2; fi
installer=$1
package=$(realpath "$2")
project=$(realpath "$(dirname "$0")/..")
photographs=$project/demo/photographs
torch=$(sed -n 's/^TORCH := //p' "$project/Makefile")
uv=$(sed -n 's/^UV := //p' "$project/Makefile")
python=$(command -v "${PYTHON:-python3}")

scratch=$(mktemp -d)
server=''
clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
megabytes() { du -sm "$@" | cut -f1; }
# Run a command, keep what it prints in $scratch/printed, and say how long it took.
measure() {
    local label=$1 status=0 TIMEFORMAT='%R s, of the processor %U s'
    shift
    { time "$@" >"$scratch/printed" 2>"$scratch/errors" || status=$?; } 2>"$scratch/time"
    [ $status = 0 ] || { cat "$scratch/printed" "$scratch/errors"; fail "$label: exit code $status"; }
    echo "$label: $(cat "$scratch/time")"
}
cached() { echo "cache: $(megabytes "${cache:-$HOME/.cache/beholder}") MB"; }

# The installer, and all that it keeps for itself (downloads, logs), lie outside the home.
"$python" -m venv "$scratch/installer"
"$scratch/installer/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv" "pipx>=1.8"
export HOME=$scratch/home PATH=$scratch/home/.local/bin:$scratch/installer/bin:/usr/bin:/bin
for name in $(compgen -e | grep -E '^(BEHOLDER|XDG|HF|PYTHON|VIRTUAL_ENV|PIPX|UV_TOOL|UV_PYTHON)'); do unset "$name"; done
export UV_CACHE_DIR=${UV_CACHE_DIR:-$scratch/uv} UV_PYTHON_DOWNLOADS=never PIPX_HOME=$scratch/pipx USE_EMOJI=0
[ -z "$cache" ] || export BEHOLDER_CACHE=$cache
mkdir "$HOME"
cd "$HOME"

specifier="beholder[server] @ file://$package"
case $installer in
    uv)
        options=(--torch-backend cpu)
        [ -z "$torch_folder" ] || options=(--find-links "$torch_folder" --with "torch==$torch+cpu")
        [ -z "$constraints" ] || options+=(--constraints "$constraints")
        order=(uv tool install --quiet --python "$python" "${options[@]}" "$specifier")
        environment=$HOME/.local/share/uv/tools/beholder
        ;;
    pipx)
        pip_options="--extra-index-url https://download.pytorch.org/whl/cpu" backend=pip
        [ -z "$torch_folder" ] || pip_options="--find-links $torch_folder" backend=uv # which is the faster one
        [ -z "$constraints" ] || pip_options+=" --constraint $constraints"
        order=(env PIP_CACHE_DIR="$scratch/pip" pipx install --quiet --python "$python" --backend "$backend" --preinstall "torch==$torch+cpu")
        order+=(--pip-args="$pip_options" "$specifier")
        environment=$PIPX_HOME/venvs/beholder
        ;;
    *) fail "no such installer: $installer" ;;
esac
measure "installed by $installer from $(basename "$package")" "${order[@]}"
[ "$(command -v beholder)" = "$HOME/.local/bin/beholder" ] || fail "beholder is not in ~/.local/bin"
echo "environment: $(megabytes "$environment") MB"
if ls -d "$environment"/lib/python3*/site-packages/nvidia >/dev/null 2>&1; then fail "this is a GPU build of PyTorch"; fi

measure "first answer" beholder classify "$photographs/cat.jpg" --label cat --label dog --json
grep -F '"labels": [{"label": "cat"' "$scratch/printed" || fail "the cat is none"
cached
measure "first caption" beholder caption "$photographs/cat.jpg" --candidates 1 --json
grep -E '"caption": "[^"]+' "$scratch/printed" || fail "no caption"
cached
measure "indexed $(find "$photographs" -name '*.jpg' | wc -l) photographs" beholder index "$photographs"
measure "searched" beholder search "a cat" --top 1 --json
grep -F "$photographs/cat.jpg" "$scratch/printed" || fail "the cat is not found"

SECONDS=0
beholder serve --port 0 2>"$scratch/serve.log" &
server=$!
ask() { "$python" -c "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())" "$1"; }
address=''
until [ -n "$address" ] && ask "$address/readyz" >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/serve.log"; fail "the server ended"; }
    [ $SECONDS -lt 600 ] || { cat "$scratch/serve.log"; fail "the server is not ready"; }
    sleep 0.2
    address=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$scratch/serve.log" | head -1 || true)
done
ask "$address/readyz"
ask "$address/" >"$scratch/page" # and not into grep, which ends after the first line that it finds
grep -F -m 1 '<title>' "$scratch/page" || fail "the page is not served"
kill "$server"
wait "$server" || fail "the server ended with $?"
server=''
echo "served after $SECONDS s"

case $installer in
    uv) uv tool uninstall --quiet beholder ;;
    pipx) pipx uninstall beholder >/dev/null ;;
esac
hash -r # bash remembers where commands were
if command -v beholder >/dev/null; then fail "beholder is still installed: $(command -v beholder)"; fi
[ ! -e "$environment" ] || fail "the environment is left: $environment"
left=$(find . -type f -o -type l | grep -vE '^\./(\.cache/beholder|\.local/share/beholder)/' \
    | grep -vE '^\./\.local/share/uv/(tools/)?\.(lock|gitignore)$' || true)
[ -z "$left" ] || fail "left behind: $left"
[ -n "$(find "$HOME/.local/share/beholder" -name album.sqlite)" ] || fail "the album is gone"
echo "uninstalled; left: album $(megabytes "$HOME/.local/share/beholder") MB"
