// A CodeMirror editor for JSON or YAML. Its style sheets carry the page's nonce.
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { yaml } from "@codemirror/lang-yaml";
import { HighlightStyle, bracketMatching, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { type Diagnostic, lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState } from "@codemirror/state";
import {
  EditorView,
  drawSelection,
  highlightActiveLine,
  highlightSpecialChars,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef } from "preact/hooks";

const nonce = document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? "";

const COLORS = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--code-key)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--code-string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.keyword], color: "var(--code-number)" },
  { tag: [tags.comment, tags.meta], color: "var(--muted)" },
  { tag: [tags.punctuation, tags.separator, tags.bracket], color: "var(--muted)" },
]);

const LOOK = EditorView.theme({
  "&": { fontSize: "13px", backgroundColor: "var(--field)", color: "var(--ink)", height: "100%" },
  ".cm-content": { fontFamily: "var(--mono)", caretColor: "var(--ink)", padding: "8px 0" },
  ".cm-gutters": { backgroundColor: "var(--field)", color: "var(--muted)", border: "none" },
  ".cm-activeLine": { backgroundColor: "var(--active-line)" },
  ".cm-activeLineGutter": { backgroundColor: "var(--active-line)" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  "&.cm-focused": { outline: "none" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--selection) !important" },
  ".cm-scroller": { overflow: "auto" },
  ".cm-tooltip": { backgroundColor: "var(--surface)", color: "var(--ink)", border: "1px solid var(--line)" },
  ".cm-diagnostic": { fontFamily: "var(--sans)", padding: "6px 10px" },
});

export type Mistake = { line: number; column: number; message: string };

type Props = {
  label: string;
  language: "json" | "yaml";
  value: string;
  onChange?: (value: string) => void; // read-only without
  mistakes?: Mistake[];
};

export function Editor({ label, language, value, onChange, mistakes }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const changed = useRef(onChange);
  changed.current = onChange;
  // Texts that were reported and have not come back as `value`. While somebody types, `value` is behind the editor: to set
  // it would undo what was typed since, and report that, without end.
  const reported = useRef<string[]>([]);
  const isSetting = useRef(false);

  useEffect(() => {
    const isReadOnly = onChange === undefined;
    const made = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: value,
        extensions: [
          EditorView.cspNonce.of(nonce),
          lineNumbers(),
          highlightSpecialChars(),
          history(),
          drawSelection(),
          indentOnInput(),
          bracketMatching(),
          syntaxHighlighting(COLORS),
          LOOK,
          language === "json" ? json() : yaml(),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ "aria-label": label, ...(isReadOnly ? { tabindex: "0" } : {}) }),
          // Tab leaves the editor; Escape and then Tab would be a trap for people who do not know it.
          keymap.of([...defaultKeymap, ...historyKeymap].filter((binding) => binding !== indentWithTab)),
          ...(isReadOnly
            ? [EditorState.readOnly.of(true), EditorView.editable.of(false)]
            : [highlightActiveLine(), lintGutter()]),
          EditorView.updateListener.of((update) => {
            if (!update.docChanged || isSetting.current) return;
            const text = update.state.doc.toString();
            reported.current.push(text);
            changed.current?.(text);
          }),
        ],
      }),
    });
    made.scrollDOM.tabIndex = 0;
    view.current = made;
    return () => made.destroy();
  }, [language, onChange === undefined]);

  useEffect(() => {
    const shown = view.current;
    const at = reported.current.lastIndexOf(value);
    reported.current.splice(0, at < 0 ? reported.current.length : at + 1);
    if (shown && at < 0 && shown.state.doc.toString() !== value) {
      isSetting.current = true;
      shown.dispatch({ changes: { from: 0, to: shown.state.doc.length, insert: value } });
      isSetting.current = false;
    }
  }, [value]);

  useEffect(() => {
    const shown = view.current;
    if (shown) shown.dispatch(setDiagnostics(shown.state, (mistakes ?? []).map((each) => diagnosticOf(shown, each))));
  }, [mistakes, value]);

  return <div class="editor" ref={place} />;
}

function diagnosticOf(view: EditorView, { line, column, message }: Mistake): Diagnostic {
  const found = view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines));
  const from = Math.min(found.from + Math.max(0, column - 1), found.to);
  return { from, to: found.to > from ? found.to : from, severity: "error", message };
}
