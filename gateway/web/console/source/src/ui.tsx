// Small parts that several pages share.
import { Component, type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

export function LaneName({ name, kinds }: { name: string | null; kinds?: Map<string, string> }) {
  if (name === null || name === undefined) return <span class="lane lane-none">none</span>;
  const kind = kinds?.get(name);
  return <span class={`lane ${kind === "worker" ? "lane-fast" : "lane-quality"}`}>{name}</span>;
}

export function State({ value }: { value: string }) {
  return <span class={`state state-${value.replaceAll("_", "-")}`}>{value.replaceAll("_", " ")}</span>;
}

export function Limited({ to }: { to: string[] | null | undefined }) {
  if (!to) return null;
  return <span class="note">limited to {to.join(", ") || "no location"}</span>;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      <p>{children}</p>
    </div>
  );
}

export function Problem({ children }: { children: ComponentChildren }) {
  return (
    <p class="problem" role="alert">
      {children}
    </p>
  );
}

// A mistake of one page leaves the others, and the navigation, in order.
export class Contained extends Component<{ children: ComponentChildren }, { error: string }> {
  override state = { error: "" };

  override componentDidCatch(error: unknown): void {
    console.error(error);
    this.setState({ error: String(error) });
  }

  override render() {
    return this.state.error ? <Problem>The page cannot be shown: {this.state.error}</Problem> : this.props.children;
  }
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      area.current!.hidden = false;
      area.current!.select();
      document.execCommand("copy");
      area.current!.hidden = true;
    }
    setDone("Copied");
  };
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(""), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <span class="copy">
      <button type="button" class="quiet" onClick={copy}>
        {done || label}
      </button>
      <textarea ref={area} value={text} hidden readOnly aria-hidden="true" tabIndex={-1} />
    </span>
  );
}

type TabsProps = { label: string; tabs: Record<string, () => ComponentChildren> };

export function Tabs({ label, tabs }: TabsProps) {
  const names = Object.keys(tabs);
  const [chosen, setChosen] = useState(names[0]!);
  const shown = tabs[chosen] ? chosen : names[0]!;
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(shown) + step + names.length) % names.length]!;
    setChosen(next);
    (event.currentTarget as HTMLElement).querySelector<HTMLElement>(`[data-tab="${CSS.escape(next)}"]`)?.focus();
  };
  return (
    <div class="tabs">
      <div role="tablist" aria-label={label} onKeyDown={move}>
        {names.map((name) => (
          <button
            key={name}
            type="button"
            role="tab"
            data-tab={name}
            aria-selected={name === shown}
            tabIndex={name === shown ? 0 : -1}
            onClick={() => setChosen(name)}
          >
            {name}
          </button>
        ))}
      </div>
      <div role="tabpanel" aria-label={shown}>
        {tabs[shown]!()}
      </div>
    </div>
  );
}

// The width of an element, which charts are drawn for.
export function useWidth<T extends HTMLElement>(): [{ current: T | null }, number] {
  const place = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry!.contentRect.width)));
    observer.observe(place.current!);
    return () => observer.disconnect();
  }, []);
  return [place, width];
}
