#!/bin/sh
# Publishes build/site as one version of the site, on the branch gh-pages: docs/site/push.sh NAME
set -eu

name=$1
pages=build/pages

if git fetch --depth 1 origin gh-pages; then
    git worktree add --detach "$pages" FETCH_HEAD
else
    git worktree add --detach "$pages"
    git -C "$pages" checkout --orphan gh-pages
    git -C "$pages" rm -rfq .
fi

python3 docs/site/publish.py build/site "$pages" "$name"
git -C "$pages" add --all
if git -C "$pages" diff --cached --quiet; then
    echo "no page has changed"
    exit
fi
git -C "$pages" -c user.name=github-actions -c user.email=github-actions@users.noreply.github.com \
    commit --quiet --message "Site of $name"
git -C "$pages" push origin HEAD:refs/heads/gh-pages
