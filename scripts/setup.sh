# Sourced by scripts/demo and scripts/test: makes .venv and installs streamlearn in it, once.
#
# Before: $root is the repository, $extra is "" or "dev". After: $root/.venv/bin has what is needed.
# pip runs only when pyproject.toml or constraints.txt changed since the last time. Nothing goes to stdout.

venv="$root/.venv"
key="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"

is_installed() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed-$1" 2>/dev/null)" = "$key $root" ]; }

# A copied or moved tree brings a .venv that points to where it was made.
is_made_here() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/made-in" 2>/dev/null)" = "$root" ]; }

find_python() {
    without_venv=""
    for python in python3.11 python3.12 python3.13 python3.14 python3 python; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        "$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
        without_venv="$python"
    done
    if [ -n "$without_venv" ]; then
        echo "streamlearn: $without_venv cannot make virtual environments (its modules venv and ensurepip are" \
            "missing). On Debian and Ubuntu: apt-get install python3-venv" >&2
    else
        echo "streamlearn: found no Python 3.11 or newer on PATH (looked for python3.11 ... python3.14, python3," \
            "python). Install one and try again." >&2
    fi
    return 1
}

if ! is_installed dev && { [ "$extra" = dev ] || ! is_installed base; }; then
    find_python || exit 4
    echo "streamlearn: setting up .venv with $("$python" -V) (once; a minute or two) ..." >&2
    is_made_here || "$python" -m venv --clear "$venv" >&2 || exit 4
    echo "$root" > "$venv/made-in"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        -c "$root/constraints.txt" -e "$root${extra:+[$extra]}" >&2 || {
        echo "streamlearn: pip could not install the packages above; is the network there?" >&2
        exit 4
    }
    echo "$key $root" | tee "$venv/installed-base" > "$venv/installed-${extra:-base}"
fi
