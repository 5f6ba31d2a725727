"""`hhchat plugins`: what is installed, what it implements, and what went wrong."""

from __future__ import annotations

import click

from hhchat.cli._common import emit, json_option, say, table


@click.command("plugins")
@click.option("--trainers", is_flag=True, help="Also import the trainers (this may load torch).")
@json_option
def command(trainers: bool, as_json: bool) -> None:
    """List plugins, their hooks and their failures.

    Names and versions come from metadata; plugins of group `hhchat` are imported to see their
    hooks. HHCHAT_LOAD_PLUGINS="" loads none but ours, "a,b" only those.
    """
    from hhchat.plugins import APP, GROUPS, Plugins, available, wanted

    plugins = Plugins.load(GROUPS if trainers else (APP,), report=lambda text: None)
    # Ask for everything once, so that a hook that raises or gives nonsense is seen here.
    plugins.objectives()
    plugins.evaluations()
    plugins.panels()
    if trainers:
        plugins.trainers()
    rows = []
    for plugin in available():
        names = (plugin.name, f"{plugin.distribution}:{plugin.name}")
        errors = [f"{f.where}: {f.error}" for f in plugins.failures if f.plugin in names]
        loaded = plugin in plugins.loaded
        if errors:
            state = "failed"
        elif loaded:
            state = "loaded"
        else:
            state = "waiting" if wanted(plugin) else "off"
        key = plugins.loaded.get(plugin, plugin.name)
        rows.append(
            {
                "name": plugin.name,
                "group": plugin.group,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.module,
                "state": state,
                "hooks": plugins.hooks_of(key) if loaded else [],
                "gives": sorted(
                    f"{kind} {name}" for (kind, name), owner in plugins.owners.items()
                    if owner == key and loaded
                ),
                "errors": errors,
            }
        )  # fmt: skip
    if as_json:
        for row in rows:
            emit(row)
        return
    table(
        ("plugin", "from", "state", "hooks"),
        [(r["name"], f"{r['distribution']} {r['version']}", r["state"], r["hooks"]) for r in rows],
        width=70,
    )
    for row in rows:
        for error in row["errors"]:
            say(f"{row['name']}: {error}")
    if not trainers and any(row["state"] == "waiting" for row in rows):
        say("\nwaiting: trainers are imported by `hhchat train`, or here with --trainers")
