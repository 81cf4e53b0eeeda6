# shellcheck shell=bash
# Sourced by scripts/quickstart and scripts/test. After `set_up [EXTRA]`, $python runs the project from $root/.venv;
# where that cannot be had, the shell ends with status 3 and says what to do. Keeps to what bash 3.2 (macOS) knows.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/.onward-complete # written last; holds what was installed, and for which pyproject.toml and Python
log=$venv/install.log

set_up() {
    local extra=${1:-} base=
    if is_complete "$extra"; then return; fi
    find_python
    lock
    if ! is_complete "$extra"; then # whoever held the lock may have done it
        if ! is_usable; then make_venv; fi
        rm -f -- "$stamp"
        install "$extra"
        printf '%s\n' "$(fingerprint) extras:$extra" >"$stamp.new"
        mv -- "$stamp.new" "$stamp"
    fi
    exec 9>&- # unlock
}

is_complete() { # EXTRA
    is_whole && [[ -f $stamp && $(<"$stamp") == "$(fingerprint) extras:"*"$1"* ]]
}

fingerprint() {
    printf '%s python:%s' "$(cksum <"$root/pyproject.toml")" \
        "$("$python" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1)"
}

# bin/activate is the last file `python -m venv` writes and it names the folder it was made for: a venv that was killed
# in the making has none, one that was moved or copied names another folder.
is_whole() (
    set +u
    # shellcheck disable=SC1091
    source "$venv/bin/activate" && [[ $VIRTUAL_ENV -ef $venv ]]
) &>/dev/null

is_usable() {
    is_whole && "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' &&
        { "$python" -I -m pip --version || "$python" -I -m ensurepip; }
} &>/dev/null

find_python() { # sets base
    local PATH=${PATH//"$venv/bin:"/} name answer tried=
    for name in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
        command -v -- "$name" >/dev/null || continue
        if answer=$("$name" -I -c '
import sys
if sys.version_info < (3, 11):
    sys.exit("is Python %d.%d.%d" % sys.version_info[:3])
try:
    import ensurepip, venv
except ImportError as error:
    sys.exit("has no module " + error.name)' 2>&1); then
            base=$(command -v -- "$name")
            return
        fi
        tried+="${tried:+; }$name ${answer%%$'\n'*}"
    done
    fail "no Python to install with: ${tried:-no python3 at all}" "PATH=$PATH" \
        "Python 3.11, 3.12 or 3.13 with its modules venv and ensurepip" \
        "install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13; any: \
https://www.python.org/downloads), or name one: put PYTHON=/path/to/python3 in front of the command"
}

# The lock belongs to the open file, so it outlives the Python that takes it and ends with this shell and its pip.
# Python takes it because macOS has no flock command. File systems without locks go without.
lock() {
    { exec 9>"$root/.venv.lock"; } 2>/dev/null || fail_to_write "$root/.venv.lock"
    "$base" -I -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("onward: another set-up is at work in this folder; waiting for it", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass'
}

make_venv() {
    local answer
    if [[ -e $venv ]]; then say "$venv is half-made, or was made elsewhere or by another Python: making it anew"; fi
    say "making $venv with $base"
    # bin goes first: should this be killed, what is left cannot pass for a venv.
    if ! answer=$({ rm -rf -- "${venv:?}/bin" && rm -rf -- "$venv" && "$base" -I -m venv "$venv"; } 2>&1); then
        explain "$answer"
    fi
}

install() { # EXTRA
    local package errors failed=
    # A package whose files did not all arrive is installed in pip's eyes; what it lacks is INSTALLER, written after them.
    for package in "$venv"/lib/python*/site-packages/*.dist-info; do
        if [[ ! -f $package/INSTALLER ]]; then rm -rf -- "$package"; fi
    done
    say "installing Onward${1:+ with its extra $1}; the first time takes some minutes. Log: $log"
    rm -f -- "$log"
    # Progress goes to the terminal untouched; errors are shown and kept, also where a full disk keeps them off the log.
    # Two retries a package: the default five make an index out of reach known only after minutes.
    { errors=$(cd -- "$root" && PIP_RETRIES=${PIP_RETRIES:-2} "$python" -I -m pip install --no-input \
        --disable-pip-version-check --log "$log" --editable ".${1:+[$1]}" 2>&1 >&3 3>&- | show_and_keep); } 3>&2 ||
        failed=yes
    # Without the 60,000 lines on files that were not wanted, the log can be read.
    if grep -vE '(Found|Skipping) link' "$log" >"$log.new" 2>/dev/null; then mv -- "$log.new" "$log"; fi
    # What fails inside a build is in the log only.
    if [[ $failed ]]; then explain "$errors"$'\n'"$(grep -E 'WARNING|ERROR|rror:' "$log" 2>/dev/null)"; fi
}

show_and_keep() {
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >&2
        printf '%s\n' "$line"
    done
}

explain() { # what pip or venv printed when it failed
    local index=${PIP_INDEX_URL:-https://pypi.org/simple, or the one that 'pip config list' shows}
    index=${index/\/\/*@/\/\/} # no password in a CI log
    case $1 in
    *"Operation cancelled by user"*)
        exit 130
        ;;
    *"No space left on device"* | *"Disk quota exceeded"*)
        fail "the disk is full" "$venv, or the temporary folder ${TMPDIR:-/tmp}" "about 4 GB free" \
            "make room (df -h shows where), or set TMPDIR to a folder with room; then run the same command again"
        ;;
    *"connection broken by"* | *"Max retries exceeded"* | *"Failed to establish"* | *"onnection error"* | \
        *"timed out"* | *"name resolution"* | *"HTTP error"* | *" Client Error"* | *" Server Error"* | \
        *"not a trusted or secure host"*)
        fail "the package index is out of reach" "$index" "an index that answers, for the packages in pyproject.toml" \
            "check the network and run the same command again (what was downloaded is kept; details: $log); behind a proxy set \
HTTPS_PROXY, for a mirror PIP_INDEX_URL, for a folder of wheels PIP_NO_INDEX=1 and PIP_FIND_LINKS=FOLDER"
        ;;
    *"No matching distribution"* | *"ResolutionImpossible"* | *"requires a different Python"*)
        fail "no version of a package fits: $(last_error "$1")" "$index" \
            "the packages in pyproject.toml for $("$python" -I -c 'import platform as p
print("Python", p.python_version(), "on", p.system(), p.machine())')" \
            "try another Python, 3.11 to 3.13: remove $venv, then run the command with PYTHON=/path/to/python3 in front"
        ;;
    *"ermission denied"* | *"Read-only file system"*)
        fail_to_write "$(last_error "$1")"
        ;;
    *)
        fail "installation failed: $(last_error "$1")" "$venv" "a venv with the packages in pyproject.toml" \
            "read $log; if that does not help, remove $venv and run the same command again"
        ;;
    esac
}

fail_to_write() { # WHAT
    fail "cannot write: $1" "$root" "a folder that $(id -un) may write to" \
        "copy the project to such a folder, or change the owner of this one, and run the same command again"
}

last_error() {
    local line=$1 sign
    for sign in 'No matching distribution' ERROR; do
        if [[ $1 == *$sign* ]]; then line=$(printf '%s\n' "$1" | grep "$sign") && break; fi
    done
    line=${line%"${line##*[![:space:]]}"}
    line=${line##*$'\n'}
    printf '%s' "${line##*ERROR: }"
}

say() { printf 'onward: %s\n' "$*" >&2; }

fail() { # FOUND WHERE EXPECTED DO, laid out as in data/errors.py
    printf '\n%s\n  %-10s%s\n  %-10s%s\n  %-10s%s\n' "$1" where: "$2" expected: "$3" do: "$4" >&2
    exit 3
}
