// The frame of the page: navigation, connection, theme, and the form to sign in.
import { useEffect, useState } from "preact/hooks";
import { type ApiError, signIn, signOut, signedOut } from "./api";
import { Decisions } from "./decisions";
import { Keys } from "./keys";
import { Lanes } from "./lanes";
import { connection, session, start, stop } from "./live";
import { Playground, apiKey } from "./playground";
import { Policy } from "./policy";
import { useStore } from "./store";
import { Contained, Problem } from "./ui";
import { Watch } from "./watch";

const PAGES: Record<string, string> = {
  playground: "Playground",
  watch: "Watch",
  lanes: "Lanes",
  decisions: "Decisions",
  policy: "Policy",
  keys: "Keys",
};

function placeOf(hash: string): [string, string] {
  const [page, rest] = hash.replace(/^#\/?/, "").split("/");
  return [page && Object.hasOwn(PAGES, page) ? page : "playground", decoded(rest ?? "")];
}

// Addresses are typed and cut by people and mail programs: one that is not well encoded is taken as it is.
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function App() {
  const [[page, rest], setPlace] = useState(placeOf(location.hash));
  const isSignedOut = useStore(signedOut);
  useEffect(() => {
    const moved = () => setPlace(placeOf(location.hash));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    document.title = `${PAGES[page]} · Twolane`;
  }, [page]);
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to content
      </a>
      <header class="top">
        <a class="brand" href="#/playground" aria-label="Twolane console">
          <Logo />
          <span>Twolane</span>
        </a>
        <nav aria-label="Pages">
          {Object.entries(PAGES).map(([name, title]) => (
            <a key={name} href={`#/${name}`} aria-current={name === page ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <Status />
      </header>
      <main id="main" tabIndex={-1}>
        <h1 class="hidden">{PAGES[page]}</h1>
        {isSignedOut ? (
          <SignIn />
        ) : (
          <Contained key={page}>
            {page === "playground" && <Playground />}
            {page === "watch" && <Watch />}
            {page === "lanes" && <Lanes />}
            {page === "decisions" && <Decisions opened={rest} onOpen={openDecision} />}
            {page === "policy" && <Policy />}
            {page === "keys" && <Keys />}
          </Contained>
        )}
      </main>
    </>
  );
}

function openDecision(id: string): void {
  location.hash = id ? `#/decisions/${encodeURIComponent(id)}` : "#/decisions";
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")!.focus();
}

function Logo() {
  return (
    <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
      <path class="logo-fast" d="M6 27V15a9 9 0 0 1 9-9h11" />
      <path class="logo-quality" d="M14 27v-8a5 5 0 0 1 5-5h7" />
    </svg>
  );
}

function Status() {
  const state = useStore(connection);
  const known = useStore(session);
  const isSignedOut = useStore(signedOut);
  const texts = { connecting: "connecting", live: "live", lost: "reconnecting" };
  return (
    <div class="status">
      <span class={`dot dot-${state}`} role="status">
        {isSignedOut ? "signed out" : texts[state]}
      </span>
      {known && (
        <span class="note wide-only">
          policy <code>{known.policy}</code>
        </span>
      )}
      <Theme />
      {known?.requires_keys && !isSignedOut && (
        <button type="button" class="quiet" onClick={() => void end()}>
          Sign out
        </button>
      )}
    </div>
  );
}

async function end(): Promise<void> {
  try {
    await signOut();
  } catch {
    return; // the gateway does not respond, as the status says: the session has not ended
  }
  apiKey.set("");
  stop();
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset["theme"] ?? "auto");
  const next = { auto: "light", light: "dark", dark: "auto" }[theme]!;
  const change = () => {
    setTheme(next);
    localStorage.setItem("theme", next);
    applyTheme();
  };
  return (
    <button type="button" class="quiet" onClick={change} aria-label={`Theme: ${theme}. Change to ${next}`}>
      <span aria-hidden="true">{{ auto: "◐", light: "☀", dark: "☾" }[theme]}</span>
    </button>
  );
}

export function applyTheme(): void {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset["theme"] = theme;
  else delete document.documentElement.dataset["theme"];
}

function SignIn() {
  const [key, setKey] = useState("");
  const [error, setError] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    try {
      await signIn(key.trim());
      setKey("");
      void start();
    } catch (failure) {
      setError((failure as ApiError).message);
    }
  };
  return (
    <form class="panel sign-in" onSubmit={submit}>
      <h2>Sign in</h2>
      <p class="note">
        Enter an API key with the scope <code>admin</code>. The browser keeps a signed session and not the key.
      </p>
      <label class="field">
        <span>API key</span>
        <input
          type="password"
          autocomplete="off"
          required
          value={key}
          onInput={(event) => setKey(event.currentTarget.value)}
        />
      </label>
      {error && <Problem>{error}</Problem>}
      <button type="submit" class="primary">
        Sign in
      </button>
    </form>
  );
}
