#!/usr/bin/env bash
# Install Beholder as a user would, use it, and remove it: packaging/try_install.sh uv|pipx wheel|sdist
#
# Builds the package, installs it into an empty home, classifies and captions a photograph, indexes and searches an album,
# asks the server, uninstalls, and checks that only the user's own data is left. Downloads torch's CPU build, the
# dependencies and mini, so it takes minutes and is no part of the tests. TORCH may name another torch for uv, such as
# "--find-links FOLDER --with torch==2.13.0+cpu" where its CPU builds lie in a folder.
set -euo pipefail
tool=${1:-uv} kind=${2:-wheel}
project=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$project/.venv/bin/python}
photographs=$project/demo/photographs
scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT

cd "$project"
"$python" -c "from setuptools import build_meta; build_meta.build_$kind('$scratch/dist')" >"$scratch/build.log" 2>&1
case $kind in
    wheel) package=$(echo "$scratch"/dist/*.whl) ;;
    sdist) package=$(echo "$scratch"/dist/*.tar.gz) ;;
esac

export HOME=$scratch/home
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_BIN_HOME PYTHONPATH BEHOLDER_ALBUM BEHOLDER_CACHE
mkdir -p "$HOME"
cd "$HOME"
export PATH=$HOME/.local/bin:$PATH
# What the installers keep for themselves is not Beholder's.
export UV_CACHE_DIR=$scratch/installer UV_PYTHON_DOWNLOADS=never PIP_CACHE_DIR=$scratch/installer
export PIPX_HOME=$HOME/.local/share/pipx PIPX_SHARED_LIBS=$scratch/installer/shared

SECONDS=0
# shellcheck disable=SC2086  # TORCH is several words
case $tool in
    uv) uv tool install --quiet ${TORCH:---torch-backend cpu} "beholder[server] @ file://$package" ;;
    pipx) PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu pipx install --quiet "beholder[server] @ file://$package" ;;
esac
echo "installed by $tool from $kind in $SECONDS s: $(du -sm "$HOME" | cut -f1) MB"

SECONDS=0
beholder classify "$photographs/cat.jpg" --label cat --label dog --json
echo "first answer, with the download of mini, in $SECONDS s: cache $(du -sm "$HOME/.cache/beholder" | cut -f1) MB"
beholder caption "$photographs/cat.jpg" --json
beholder index "$photographs" >/dev/null
beholder search "a cat" --top 1 --json

beholder serve --port 0 2>"$scratch/serve.log" &
server=$!
for _ in $(seq 600); do
    address=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$scratch/serve.log" | head -1 || true)
    [ -z "$address" ] || break
    kill -0 "$server"
    sleep 0.1
done
"$python" -c "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1] + '/healthz').read().decode())" "$address"
kill "$server"
wait "$server" || true
server=

case $tool in
    uv) uv tool uninstall --quiet beholder ;;
    pipx) pipx uninstall --quiet beholder ;;
esac
if command -v beholder | grep -F "$HOME"; then echo "beholder is still installed"; exit 1; fi
left=$(cd "$HOME" && find . -type f -o -type l | grep -vE '^\./(\.cache/beholder|\.local/share/beholder)/' || true)
left=$(grep -vE '^\./\.local/share/(uv/tools/\.(lock|gitignore)|pipx/)|^\./\.local/state/pipx|^\./\.local/bin/env' <<<"$left" || true)
if [ -n "$left" ]; then echo "left behind: $left"; exit 1; fi
du -sm "$HOME/.cache/beholder" "$HOME/.local/share/beholder" | sed 's/^/only the data of the user is left, MB: /'
